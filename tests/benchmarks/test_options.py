"""With privacy, masks and audit off a round sends the plain update and nothing else."""

import pytest

from benchmarks.speed.options import DP, GAMES, bytes_of, game


@pytest.mark.parametrize(("on", "values_up"), [({}, 4), ({"method": DP}, 4), ({"masked": True}, 8)])
def test_bytes_of_a_round_are_those_of_the_weights_each_way_and_twice_that_behind_masks(on, values_up):
    played = game(sites=3, steps=1, patches=20, **on)
    values = played.federation.state.weights.numel() + played.federation.state.buffers.numel()
    assert bytes_of(played) == (4 * values, values_up * values)


def test_every_game_is_one_that_can_be_played():
    assert set(GAMES) == {"off", "dp", "training.secure_aggregation", "training.dp_sgd"}
