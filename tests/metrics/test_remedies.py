"""Names of remedies, and which steps go together."""

import pytest

from medfl.metrics.remedies import PLAIN, REASONS, STEPS, left_out, name_of, steps_of


def test_a_name_and_its_steps():
    assert steps_of("em+batchnorm") == ("batchnorm", "em")
    assert name_of(["em", "batchnorm"]) == "batchnorm+em"
    assert (steps_of(PLAIN), name_of([])) == ((), PLAIN)
    assert all(steps_of(step) == (step,) for step in STEPS if step != "em")


@pytest.mark.parametrize(
    ("remedy", "said"),
    [
        ("em", "em alone is refused.*mean ECE .70 for .44"),
        ("class_mix+em", "keep one of them"),
        ("batchnorm+batchnorm", "stands once"),
        ("tent", "no remedy 'tent'"),
        ("", "no remedy ''"),
    ],
)
def test_what_does_not_go_together_says_why(remedy, said):
    with pytest.raises(ValueError, match=said):
        steps_of(remedy)


def test_every_reason_has_its_sentence():
    assert left_out({"left_out": {"batchnorm": "class_spread", "em": "alone"}}) == [
        f"batchnorm: {REASONS['class_spread']}",
        f"em: {REASONS['alone']}",
    ]
    assert left_out({"left_out": {"batchnorm": "few_groups", "em": "few_groups"}}) == [REASONS["few_groups"]]
    assert left_out({"left_out": {}}) == []
