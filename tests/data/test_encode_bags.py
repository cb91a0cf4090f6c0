"""Every tile goes through the encoder once: what is kept, what a stopped run goes on with, what is refused."""

import numpy as np
import pytest

from medfl.data.bag_store import FeatureOrigin
from medfl.data.encode_bags import encode_bags
from medfl.data.partition import make_partition
from medfl.data.slides.slide_reader import Slide
from medfl.errors import MedflError
from tests.datafiles import pipeline, site
from tests.encoders import MeanColour, damage_pixels, ward

pytest.importorskip("openslide")


def plan_of(root, **data):
    tile = {"source": "slides", "mode": "own", "root": root, "size": 32, "mpp": 1.0, "cache": root.parent / "c", **data}
    plan = pipeline([site("here")], classes=("tumour", "normal"), **tile)
    return plan.model_copy(update={"model": plan.model.model_copy(update={"mil": "abmil"})})


def bags_of(plan, encoder):
    [share] = make_partition(plan).sites
    return encode_bags(plan, plan.train_sites[0], share, share.catalog.source, encoder)


def test_a_bag_holds_what_the_encoder_gives_of_the_slides_tiles(tmp_path):
    root = ward(tmp_path / "ward")
    store = bags_of(plan_of(root), MeanColour())
    assert store.sizes.tolist() == [4] * 6
    assert store.origin == FeatureOrigin("mean-colour", "32 px at 1 mpp")
    slide = Slide(root / "s1.tif")
    tiles = [slide.read(x, y, 32, 32, (32, 32)) for x, y in ((0, 0), (32, 0), (0, 32), (32, 32))]
    row = store.names.index("normal/s1.tif")
    own = store.features[store.offsets[row] : store.offsets[row + 1]]
    np.testing.assert_allclose(own, np.stack(tiles).mean(axis=(1, 2)), rtol=1e-5)
    assert isinstance(store.features, np.memmap)


def test_a_stopped_run_goes_on_and_a_second_one_encodes_nothing(tmp_path):
    plan = plan_of(ward(tmp_path / "ward"))

    class Stopped(MeanColour):
        def __call__(self, tiles):
            if self.seen == 12:
                raise KeyboardInterrupt
            return super().__call__(tiles)

    with pytest.raises(KeyboardInterrupt):
        bags_of(plan, Stopped())
    second, third = MeanColour(), MeanColour()
    store = bags_of(plan, second)
    assert second.seen == 12
    assert np.array_equal(bags_of(plan, third).features, store.features)
    assert third.seen == 0


def test_a_slide_damaged_where_a_tile_lies_is_named_or_left_out(tmp_path):
    root = ward(tmp_path / "ward")
    plan = plan_of(root)
    make_partition(plan)  # tiles are noted in the cache by the slide's digest, which changes with it
    damage_pixels(root / "s2.tif")
    with pytest.raises(MedflError, match=r"s2\.tif"):
        bags_of(plan_of(root), MeanColour())
    skipped = plan_of(root, tile={"skip_damaged": True}, on_bad_image="skip")
    store = bags_of(skipped, MeanColour())
    assert sorted(store.names) == sorted(name for name in store.names if "s2" not in name)
    assert store.sizes.tolist() == [4] * 5
