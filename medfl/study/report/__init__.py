"""The page of a study: the report's shell, blocks and charts around what study.json and the three tables say."""
