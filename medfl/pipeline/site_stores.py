"""What each site of a pipeline trains on and is measured on: patches, or bags of features."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from medfl import config
from medfl.data.bag_store import SiteStore
from medfl.data.encode_bags import encode_bags
from medfl.data.partition import SitePartition
from medfl.data.render import render
from medfl.data.render_bags import render_bags
from medfl.data.sources.feature_folders import FeatureFolders
from medfl.data.sources.slide_bags import SlideBags
from medfl.data.store_pieces import PatchProgress
from medfl.errors import MedflError
from medfl.pipeline.frozen_encoder import FrozenEncoder


class SiteStores:
    """The stores of a pipeline's sites, which share one encoder where slides become bags.

    Args:
        pipeline: how data are rendered.
        say: who is told before there is much to compute.
    """

    def __init__(self, pipeline: config.Pipeline, say: Callable[[str], None] = lambda sentence: None) -> None:
        self.pipeline = pipeline
        self.say = say

    @cached_property
    def encoder(self) -> FrozenEncoder:
        """What gives the features of tiles. Raises MedflError where the pipeline names none, and as it does itself."""
        section, training = self.pipeline.model.encoder, self.pipeline.training
        if section is None:
            raise MedflError("`model.encoder` is missing: nothing says what gives the features of slides")
        return FrozenEncoder(section, self.pipeline.tracking, training.device, training.precision)

    def of(self, site: config.SiteConfig, share: SitePartition, progress: PatchProgress | None = None) -> SiteStore:
        """A site's patches, rendered, or its bags. Raises MedflError as `render`, `render_bags` and `encode_bags`."""
        source = share.catalog.source
        if isinstance(source, SlideBags):
            return encode_bags(self.pipeline, site, share, source, self.encoder, self.say)
        if isinstance(source, FeatureFolders):
            return render_bags(self.pipeline, share, source, progress)
        return render(self.pipeline, site, share, progress)
