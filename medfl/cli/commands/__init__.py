"""The commands of the command line. Heavy imports live inside them, so that help is instant."""
