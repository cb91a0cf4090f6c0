"""Names and aliases that MLflow would refuse after the last round."""

import pytest

from medfl.config.registry_names import check_alias, check_model_name

BAD_NAMES = ["", " ", "a/b", "a:b", ".", "..", " a", "a'b", "x" * 256]
BAD_ALIASES = ["", "latest", "Latest", "v1", "V12", "a b", "a.b", "a/b", "a:b", "x" * 256]


@pytest.mark.parametrize(("check", "bad"), [(check_model_name, BAD_NAMES), (check_alias, BAD_ALIASES)])
def test_names_that_are_refused(check, bad):
    for word in bad:
        with pytest.raises(ValueError, match=r"letters|MLflow|characters"):
            check(word)


def test_names_that_are_taken():
    for name in ("tumour", "Tumour 2.0", "catalog.schema.model", "a_b-c", "Gewebe-Zürich"):
        check_model_name(name)
    for alias in ("champion", "v1a", "v", "latest-2", "2026_11"):
        check_alias(alias)
