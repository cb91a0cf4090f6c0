"""The two kinds of file a user writes: a pipeline and a site.

Every rule that can be checked without looking at data or building a model is checked here, once, at load; each
error names file, key, value and what is allowed. Relative paths are relative to the file that states them and leave
this module absolute, so a resolved pipeline means the same from any working directory.
"""

from __future__ import annotations

from medfl.config.adapt_config import Adapt as Adapt
from medfl.config.data_config import Data as Data
from medfl.config.data_config import DrawnSlides as DrawnSlides
from medfl.config.data_config import FeatureTables as FeatureTables
from medfl.config.data_config import GeneratedBags as GeneratedBags
from medfl.config.data_config import OwnData as OwnData
from medfl.config.data_config import StainNormalisation as StainNormalisation
from medfl.config.data_config import Task as Task
from medfl.config.data_config import TileSettings as TileSettings
from medfl.config.fields import ConfigSection as ConfigSection
from medfl.config.fields import Name as Name
from medfl.config.fields import Transform as Transform
from medfl.config.model_config import InputNormalisation as InputNormalisation
from medfl.config.model_config import ModelConfig as ModelConfig
from medfl.config.model_config import TileEncoder as TileEncoder
from medfl.config.model_config import TrainedPart as TrainedPart
from medfl.config.pipeline_config import Baseline as Baseline
from medfl.config.pipeline_config import CalibrationFit as CalibrationFit
from medfl.config.pipeline_config import Disclosure as Disclosure
from medfl.config.pipeline_config import Gates as Gates
from medfl.config.pipeline_config import Pipeline as Pipeline
from medfl.config.pipeline_config import Registry as Registry
from medfl.config.pipeline_config import Tracking as Tracking
from medfl.config.site_about import PublicText as PublicText
from medfl.config.site_about import SiteAbout as SiteAbout
from medfl.config.site_config import Generate as Generate
from medfl.config.site_config import SiteConfig as SiteConfig
from medfl.config.site_config import SiteLink as SiteLink
from medfl.config.site_config import Sites as Sites
from medfl.config.site_config import StainProfile as StainProfile
from medfl.config.training_config import Augment as Augment
from medfl.config.training_config import DpSgd as DpSgd
from medfl.config.training_config import LearningRateSchedule as LearningRateSchedule
