"""The section `adapt` of a pipeline, and a remedy at the command line."""

import pytest
from pydantic import ValidationError

from medfl import config
from medfl.config.adapt_config import AUTO, read_adapt
from medfl.errors import MedflError
from medfl.pipeline.load_pipeline import load_pipeline
from tests.tiny import tiny


def test_a_remedy_is_a_word_or_a_list():
    assert config.Adapt(remedy="batchnorm").name == "batchnorm"
    assert config.Adapt(remedy=["em", "normalise"]).name == "normalise+em"
    assert config.Adapt(remedy="auto").name == AUTO
    assert config.Adapt(remedy="auto").may("normalise")
    assert not config.Adapt(remedy="batchnorm").may("normalise")
    assert read_adapt("batchnorm+class_mix").name == "batchnorm+class_mix"


@pytest.mark.parametrize("remedy", ["em", [], ["class_mix", "em"], ["auto", "em"], "tent"])
def test_no_remedy(remedy):
    with pytest.raises(ValidationError):
        config.Adapt(remedy=remedy)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"adapt": {"remedy": "em"}}, "em alone is refused"),
        ({"adapt": {"remedy": "batchnorm"}, "baseline": "local_only"}, "local_only does not have"),
        ({"registry": {"name": "m", "gates": {"held_out_adapted_ece_max": 0.1}}}, "state `adapt`"),
        ({"adapt": {"remedy": "batchnorm", "patches": 3}}, "patches"),
    ],
)
def test_a_pipeline_that_cannot_be_adapted_says_so(changes, said):
    with pytest.raises(MedflError, match=said):
        load_pipeline(tiny(**changes))


def test_a_pipeline_without_it_is_written_as_ever():
    from medfl.pipeline.load_pipeline import dump_pipeline

    assert "adapt" not in dump_pipeline(load_pipeline(tiny()))
