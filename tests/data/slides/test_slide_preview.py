"""A picture of each slide and a page of them; what cannot be read has its reason."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medfl.cli import app
from medfl.data.slides.slide_preview import MARKED, UNLABELLED
from medfl.metrics.palette import SERIES
from tests.slides import annotate, box, feature, pyramid, tissue

pytest.importorskip("openslide")


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """A site file over two slides, one annotated and marked, and one damaged one."""
    pixels = tissue(300, 400, (20, 20, 200, 200))
    pixels[60:160, 300:360] = (40, 60, 170)
    annotate(pyramid(tmp_path / "a&<b>.tif", pixels), feature("Tumor", box(20, 20, 90, 200), box(50, 80, 20, 20)))
    pyramid(tmp_path / "b.tif", tissue(200, 200, (0, 0, 100, 200)))
    (tmp_path / "c.tif").write_bytes(b"")
    (tmp_path / "slides.csv").write_text(
        "slide,patient,label,site\na&<b>,P1,,ward\nb,P2,normal,ward\nc,P3,normal,ward\n"
    )
    (tmp_path / "ward.yaml").write_text(f"name: ward\ndata: {{source: slides, root: {tmp_path}}}\n")
    return tmp_path


def command(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app.app, ["slides", "preview", *map(str, words)])
    assert done.exit_code == code, done.output
    return done.output if code == 0 else str(done.exception)


def has(image: Path, colour: str) -> bool:
    rgb = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return bool((np.asarray(Image.open(image)) == rgb).all(axis=-1).any())


def test_a_page_and_a_picture_of_each_slide(ward: Path) -> None:
    (ward / "p.yaml").write_text(
        "name: p\ntask: {classes: [tumour, normal]}\nmodel: {backbone: test_resnet}\ntraining: {rounds: 1}\n"
        "data: {source: slides, mode: own, size: 32, mpp: 1.0}\nsites: {train: [{name: ward}]}\n"
    )
    out = ward / "out"
    said = command(ward / "ward.yaml", "--pipeline", ward / "p.yaml", "--out", out)
    assert "c.tif: cannot be tiled: zero bytes" in said
    assert "Slides: 3 of 3" in said
    page = (out / "index.html").read_text()
    assert "a&amp;&lt;b&gt;.tif" in page
    assert "patient P1; 1 microns per pixel" in page
    assert "pen marks on" in page
    assert "normal 18" in page
    assert sorted(path.name for path in out.iterdir()) == ["001.png", "002.png", "index.html"]
    first, second = out / "001.png", out / "002.png"
    assert has(first, SERIES[0])
    assert has(first, UNLABELLED)
    assert has(second, SERIES[1])
    reds = np.asarray(Image.open(first)).astype(int)
    assert (np.abs(reds - (np.array([40, 60, 170]) // 2 + np.array(MARKED) // 2)).max(axis=-1) < 20).sum() > 1000


def test_a_folder_alone_will_do_and_nothing_is_written_over(ward: Path) -> None:
    assert "Slides: 1 of 3" in command(ward, "--out", ward / "out", "--most", 1, "--mpp", 0.2)
    assert "exists already; name another folder with --out" in command(ward, "--out", ward / "out", code=1)
    (ward / "other.yaml").write_text("name: other\ndata: {source: folder, root: .}\n")
    assert "`data` names no slides" in command(ward / "other.yaml", code=1)
    (ward / "gone.yaml").write_text("name: gone\ndata: {source: slides, root: gone}\n")
    assert "does not exist" in command(ward / "gone.yaml", code=1)
