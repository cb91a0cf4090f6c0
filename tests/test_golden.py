"""One short run whose figures are written down: a change that moves them is a change of the numbers people get."""

import pytest

from tests.toys import toy_run

GOLDEN = {
    "fedavg": {
        "weights": 53.018297,
        "mean_sq": 0.0055996424,
        "sq": 0.0039603315,
        "cosine": 0.046901555,
        "loss": 0.019565901,
        "nll": 0.65153002,
    },
    "ecgr": {
        "weights": 53.01852,
        "mean_sq": 0.0075341111,
        "sq": 0.0055441817,
        "cosine": 0.049823409,
        "loss": 0.0258372,
        "nll": 0.61275908,
    },
}


def figures(method) -> dict[str, float]:
    state, records = toy_run(method, rounds=3, backbone="test_byobnet")
    return {
        "weights": float(state.weights.double().norm()),
        "mean_sq": records[2]["update"]["mean_sq"],
        "sq": records[2]["update"]["sq"],
        "cosine": records[2]["update"]["cosine"],
        "loss": records[2]["sites"]["site-1"]["train_loss"],
        "nll": records[3]["sites"]["site-2"]["val"]["nll"],
    }


@pytest.mark.parametrize("method", ["fedavg", "ecgr"])
def test_golden(method):
    found, wanted = figures([] if method == "fedavg" else [method]), dict(GOLDEN[method])
    # A small cosine is a difference of large sums: it is held to 1e-5 of its scale, which is 1.
    assert found.pop("cosine") == pytest.approx(wanted.pop("cosine"), abs=1e-5)
    assert found == pytest.approx(wanted, rel=1e-5)
