"""Methods together: rounds by hand with ECGR on top, neutral settings, saved and lost state, bytes, contradictions."""

import functools

import pytest
import torch

from medfl.errors import MedflError
from medfl.methods.core.chain import build_chain
from medfl.runs.folder import RunFolder
from tests.hand import PAIR, Absent, Hand, play
from tests.toys import toy_bench, toy_federation, toy_run, toy_sites, toy_work

HALF = {"name": "ecgr", "beta": 0.5}
UNEQUAL = {"near": PAIR["near"], "far": Hand(6, PAIR["far"].target, PAIR["far"].curvature, steps=4)}

# Two sites, three weights, two local steps of lr .5 (tests/hand.py). near: p 1/4, target (0, 0, 1), curvature
# (1, .4, .2); far: p 3/4, target (1, 0, 0), curvature (.2, 1, .4). w = (4, 2, -3). ECGR keeps one step of two whole
# and half of the other, then rescales. Plain gradients of round 0, and the displacements d = .5 g:
#   far:  g = (.6, 2, -1.2), (.54, 1, -.96)      d = (.3, 1, -.6), (.27, .5, -.48)
#         d_2 is the shorter: u ~ (.42, 1, -.78), times |(.57, 1.5, -1.08)| / |(.42, 1, -.78)| = 1.4478264
#         u = (.6080871, 1.4478264, -1.1293046),   end point (3.3919129, .5521736, -1.8706954)
#   near: g = (4, .8, -.8), (2, .64, -.72)       d = (2, .4, -.4), (1, .32, -.36)
#         u ~ (2, .52, -.56), times |(3, .72, -.76)| / |(2, .52, -.56)| = 1.4840631
#         u = (2.9681262, .7717128, -.8310753),    end point (1.0318738, 1.2282872, -2.1689247)
#   w_1 = 3/4 far + 1/4 near
FIRST = (2.8019031, 0.7212020, -1.9452527)


def close(vector, expected):
    assert vector == pytest.approx(expected, abs=2e-6)


def test_scaffold_and_ecgr_by_hand():
    # Round 0 has zero variates. c_far = (.57, 1.5, -1.08), c_near = (3, .72, -.76), the mean gradients of the steps
    # ECGR never touches; c is half their sum, (1.785, 1.11, -.92).
    # Round 1, steps d = .5 (g - c_i + c):
    #   far:  (.7876903, .1656010, -.3090505), (.7089213, .0828005, -.2472404), ratio 1.3632527
    #         u = (1.5033493, .2257560, -.5477082)
    #   near: (.7934516, .3392404, -.3745253), (.3967258, .2713923, -.3370727), ratio 1.4453331
    #         u = (1.1468018, .6374100, -.7578393)
    game = play(["scaffold", HALF])
    close(game.rounds(1)[0], FIRST)
    close(game.state.tensors["scaffold.c"].tolist(), (1.785, 1.11, -0.92))
    close(game.rounds(1)[0], (1.3876907, 0.3925325, -1.3450118))
    # The new variates, mean gradients again: far (.2816116, .6384015, -.7162910), near (2.4051774, .2206327, -.5515980)
    close(game.state.tensors["scaffold.c"].tolist(), (1.3433945, 0.4295171, -0.6339445))


def test_lips_and_ecgr_by_hand():
    # From w = (4, 4, -2). Round 0 is dense, no gradient being stored yet:
    #   far:  d = (.3, 2, -.4), (.27, 1, -.32), ratio 1.4878069, end point (3.3751211, 1.0243862, -1.2263404)
    #   near: d = (2, .8, -.3), (1, .64, -.27), ratio 1.4723585, end point (1.0552830, 2.4687472, -1.3816094)
    # The body convolution holds weights 2 and 3; density .5 + .5 * 1/4 = .625 keeps floor(1.25) = 1 of them.
    # Stored last gradients: far (2, -.64), near (1.28, -.54). |g W| in round 1: far (2.7709530, .8097009),
    # near (1.7734099, .6831852): both cut weight 3, and near, whose target for it is 1, grows it anew at once.
    # From (2.7951616, 1.3854765, 0):
    #   far:  d = (.1795162, .6927382, 0), (.1615645, .3463691, 0), ratio 1.4840909, u = (.3729856, 1.0280865, 0)
    #         end point (2.4221760, .3573900, 0)
    #   near: d = (1.3975808, .2770953, -.1), (.6987904, .2216762, -.09), ratio 1.4918626,
    #         u = (2.0849985, .5374045, -.2088608), end point (.7101631, .8480719, .2088608)
    game = play([{"name": "lips", "period": 1, "density": 0.5}, HALF], start=(4.0, 4.0, -2.0))
    close(game.rounds(1)[0], (2.7951616, 1.3854765, -1.2651577))
    close(game.rounds(1)[0], (1.9941728, 0.4800605, 0.0522152))


def test_pflalign_and_ecgr_by_hand():
    # b = .5. Round 0: offset 0, P = .25 after one step (m = g/2, v = g^2/2), so d_1 = .5 * .25 g:
    #   far:  d = (.075, .25, -.15), (.1348764, .4131944, -.2644251), u = (.2076763, .6657231, -.4114686)
    #   near: d = (.5, .1, -.1), (.8263889, .1762834, -.1798352), u = (1.3277320, .2735472, -.2761292)
    # Offsets are minus the plain sums: far (-.2098764, -.6631944, .4144251), near (-1.3263889, -.2762834, .2798352).
    # Round 1 starts at theta + offset; gates of far: (.2954997, .3731743, .2988064), (.1456648, .2584804, .1519982), of
    # near: (.3310784, .3304674, .2843247), (.2005103, .1918441, .1332894). d = .5 P g + gate * offset / 2:
    #   far:  d = (.0533759, .0416673, -.1017732), (.0883898, .0849226, -.1637901), u = (.1420274, .1224605, -.2673538)
    #         end point (3.1604061, .6466659, -1.9405873)
    #   near: d = (.2186791, .0456474, -.0797343), (.3300137, .0763713, -.1317725), u = (.5501321, .1202004, -.2087919)
    #         end point (1.6357888, 1.0358370, -2.1337391)
    game = play([{"name": "pflalign", "beta": 0.5}, HALF])
    close(game.rounds(1)[0], (3.5123098, 1.4323208, -2.6223662))
    close(game.rounds(1)[0], (2.7792518, 0.7439587, -1.9888753))
    # A site's own state comes from its raw end: far's w - theta is far from what ECGR reports.
    close(game.committed("far")["pflalign.offset"].tolist(), (-0.3516421, -0.7897844, 0.6799884))


def test_fednova_and_ecgr_by_hand():
    # Momentum .5; far takes 4 steps: a = [4 - .5 (1 - .5^4) / .5] / .5 = 6.125, near 2: a = [2 - .75] / .5 = 2.5.
    #   far:  d = (.3, 1, -.6), (.42, 1, -.78), (.438, .5, -.714), (.4032, 0, -.5382), the last two convergent,
    #         u = (1.7373295, 2.1694924, -2.8090588), u / a = (.2836456, .3542028, -.4586218)
    #   near: d = (2, .4, -.4), (2, .52, -.56), the first convergent,
    #         u = (4.0194516, .8842794, -.9110757), u / a = (1.6077806, .3537117, -.3644303)
    # sum p a = 5.21875; sum p d = (.6146794, .3540801, -.4350739).
    game = play(["fednova", HALF], UNEQUAL, momentum=0.5)
    close(game.rounds(1)[0], (0.7921420, 0.1521447, -0.7294578))
    close(game.rounds(1)[0], (0.4438607, -0.0021654, -0.1128261))


# --------------------------------------------------------------------------------------------------- neutral settings


@functools.cache
def plain(momentum):
    return toy_run(rounds=3, sizes=(16, 16), work=toy_work(momentum=momentum, rounds=3), evaluate_every=9)[0].weights


@pytest.mark.parametrize(
    ("method", "momentum"),
    [
        ([{"name": "fedprox", "mu": 0}], 0.9),
        ([{"name": "scaffold", "frozen": True}], 0.9),
        (["fednova"], 0.9),
        ([{"name": "fedavgm", "lr": 1, "momentum": 0}], 0.9),
        ([{"name": "ecgr", "beta": 1}], 0.9),
        ([{"name": "lips", "period": 1, "density": 1}], 0.9),
        ([{"name": "pflalign", "ablation": "sgd"}], 0.0),
        (
            [
                "fednova",
                {"name": "ecgr", "beta": 1},
                {"name": "fedavgm", "momentum": 0},
                {"name": "fedprox", "mu": 0},
                {"name": "scaffold", "frozen": True},
            ],
            0.9,
        ),
    ],
    ids=lambda value: str(build_chain(value)) if isinstance(value, list) else "",
)
def test_neutral_settings_are_fedavg(method, momentum):
    work = toy_work(momentum=momentum, rounds=3)
    state, _ = toy_run(method, rounds=3, sizes=(16, 16), work=work, evaluate_every=9)
    torch.testing.assert_close(state.weights, plain(momentum), rtol=0, atol=1e-6)


ADAPTIVE = {"lr": 0.5, "tau": 1.0}  # large enough for lengths to matter, and not signs alone
METHODS = {
    "fedprox": ["fedprox"],
    "scaffold": ["scaffold"],
    "fednova": ["fednova"],
    "fedavgm": ["fedavgm"],
    "fedadagrad": [{"name": "fedadagrad", **ADAPTIVE}],
    "fedadam": [{"name": "fedadam", **ADAPTIVE}],
    "fedyogi": [{"name": "fedyogi", **ADAPTIVE}],
    "lips": [{"name": "lips", "period": 1}],
    "lips-random": [{"name": "lips", "period": 2, "criterion": "random"}],
    "pflalign": [{"name": "pflalign", "p_init": 1}],
    "everything": ["scaffold", "fedprox", {"name": "fedyogi", **ADAPTIVE}, {"name": "lips", "period": 2}],
}


def game_of(name, **changes):
    momentum = 0.0 if name == "pflalign" else 0.9
    return play([*METHODS[name], HALF], UNEQUAL, **{"rounds": 6, "lr": 0.2, "momentum": momentum} | changes)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_differs_from_fedavg_and_ecgr_from_every_method(name):
    settings = {"people": UNEQUAL, "rounds": 6, "lr": 0.2, "momentum": 0.0}
    base = torch.tensor(play([], **settings).rounds(3)[-1])
    alone = torch.tensor(play(METHODS[name], **settings).rounds(3)[-1])
    same = torch.tensor(play([*METHODS[name], {"name": "ecgr", "beta": 1}], **settings).rounds(3)[-1])
    other = torch.tensor(play([*METHODS[name], HALF], **settings).rounds(3)[-1])
    assert (alone - base).abs().max() > 1e-3
    torch.testing.assert_close(same, alone, rtol=0, atol=1e-5)
    assert (other - alone).abs().max() > 1e-4


# ------------------------------------------------------------------------------------------------------------- state


def saved_and_resumed(first, second, folder):
    """Save one federation's state and load it into another, freshly built one."""
    files = RunFolder(folder)
    files.save_checkpoint(first.federation.state, [site.memory() for site in first.sites.values()], {})
    state, _ = files.load_checkpoint(second.sites)
    second.federation = type(second.federation)(
        second.federation.config, second.federation.transport, state, chain=second.federation.chain
    )


@pytest.mark.parametrize("name", METHODS)
def test_two_rounds_and_two_after_resuming_are_four(name, tmp_path):
    whole, first, second = game_of(name), game_of(name), game_of(name)
    expected = whole.rounds(4)
    assert first.rounds(2) == expected[:2]
    saved_and_resumed(first, second, tmp_path)
    assert second.rounds(2) == expected[2:]
    assert [*first.records, *second.records] == whole.records
    assert set(whole.state.tensors) == set(second.state.tensors)
    assert all(torch.equal(whole.state.tensors[k], v) for k, v in second.state.tensors.items())
    for site in UNEQUAL:
        assert set(whole.committed(site)) == set(second.committed(site))
        assert all(torch.equal(whole.committed(site)[k], v) for k, v in second.committed(site).items())


@pytest.mark.parametrize("method", [["lips", "scaffold"], ["fedbn", "ecgr"], ["pflalign"]], ids=str)
def test_a_real_network_resumes_bit_for_bit(method, tmp_path):
    chain = [{"name": "lips", "period": 1, "local_norm": True} if m == "lips" else m for m in method]
    momentum = 0.0 if "pflalign" in method else 0.9

    def fresh():
        bench = toy_bench(chain, backbone="test_resnet")
        sites = toy_sites(bench, (8, 8), toy_work(momentum=momentum, local_steps=2, rounds=4))
        return (*toy_federation(bench, sites, rounds=4, evaluate_every=2), sites)

    whole, _, _ = fresh()
    first, _, sites = fresh()
    for federation, rounds in ((whole, 4), (first, 2)):
        for _ in range(rounds):
            federation.run_round()
    files = RunFolder(tmp_path)
    files.save_checkpoint(first.state, [site.memory() for site in sites.values()], {})
    second, _, others = fresh()
    second.state, _ = files.load_checkpoint(others)
    for _ in range(2):
        second.run_round()
    assert torch.equal(second.state.weights, whole.state.weights)
    assert torch.equal(second.state.buffers, whole.state.buffers)


@pytest.mark.parametrize("name", METHODS)
def test_a_lost_reply_is_as_if_that_round_never_happened_at_the_site(name):
    lost = {(1, "near"), (2, "far")}
    heard, never = game_of(name, lost=lost), game_of(name, lost=lost, transport=Absent)
    assert heard.rounds(4) == never.rounds(4)
    for site in UNEQUAL:
        assert all(torch.equal(never.committed(site)[k], v) for k, v in heard.committed(site).items())
    assert heard.rounds(1) != game_of(name).rounds(5)[-1:]


@pytest.mark.parametrize("name", METHODS)
def test_a_round_without_quorum_changes_nothing_at_the_server(name):
    game = game_of(name, quorum=1.0, lost={(1, "near")})
    weights = game.rounds(1)
    tensors = {k: v.clone() for k, v in game.state.tensors.items()}
    assert game.rounds(1) == weights
    assert not game.records[1]["counted"]
    assert all(torch.equal(game.state.tensors[k], v) for k, v in tensors.items())
    assert game.rounds(1) != weights


@pytest.mark.parametrize("name", METHODS)
def test_sites_per_round_is_seeded_and_absent_sites_keep_their_state(name):
    one, two = game_of(name, sites_per_round=1), game_of(name, sites_per_round=1)
    for _ in range(5):
        before = {site: one.committed(site) for site in UNEQUAL}
        assert one.rounds(1) == two.rounds(1)
        (chosen,) = one.records[-1]["participants"]
        (other,) = set(UNEQUAL) - {chosen}
        assert set(one.committed(other)) == set(before[other])
        assert all(torch.equal(one.committed(other)[k], v) for k, v in before[other].items())
    assert {r["participants"][0] for r in one.records} == set(UNEQUAL)


# ------------------------------------------------------------------------------------------------- bytes and refusals


@pytest.mark.parametrize("name", METHODS)
def test_bytes_per_site_and_round(name):
    game = game_of(name, evaluate_every=1)
    game.rounds(2)
    vectors = 2 if any("scaffold" in str(entry) for entry in METHODS[name]) else 1
    for record in game.records:
        for entry in record["sites"].values():
            assert entry["bytes_down"] == entry["bytes_up"] == vectors * 3 * 4


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (["scafold"], '"scaffold"'),
        (["fednova", "pflalign"], "fednova counts steps of SGD, which pflalign replaces; leave one of them out"),
        (["pflalign", "lips"], "pflalign and lips both decide where a site starts; keep one of them"),
        (["fednova", "fedbn"], "under fedbn sites do not start from w"),
        (["fedadam", "scaffold", "fedavgm"], "both optimisers of the server; keep one of them"),
        ([{"name": "fednova", "mu": 0.1}], "method.fednova.mu"),
    ],
)
def test_contradictions_are_one_sentence_at_load(method, said):
    for order in (method, method[::-1]):
        with pytest.raises(MedflError) as caught:
            build_chain(order)
        assert "\n" not in str(caught.value)
    with pytest.raises(MedflError) as caught:
        build_chain(method)
    assert said in str(caught.value)
