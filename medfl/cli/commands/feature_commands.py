"""Commands that make features of slides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfl.cli.commands.common import Set, about, open_terminal
from medfl.errors import MedflError

if TYPE_CHECKING:
    from medfl.config import Pipeline, TileEncoder

features_app = typer.Typer(help="Make features of slides.", no_args_is_help=True, rich_markup_mode=None)


@features_app.command("extract")
def features_extract(
    site: Annotated[str, typer.Argument(metavar="SITE", help="A site file, or a folder of slides.")],
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder of the features; an extraction there goes on.")],
    weights: Annotated[
        str | None,
        typer.Option(help="The encoder: package, local-dir:DIR, a file, hf-hub:ORG/NAME, a run, pretrained."),
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Its architecture, where the weights do not say it.")] = None,
    pooling: Annotated[
        str | None, typer.Option(help="How its tokens become features: cls, avg, cls+avg, stages.")
    ] = None,
    px: Annotated[int, typer.Option(min=16, max=1024, help="Pixels a side of a tile.")] = 224,
    mpp: Annotated[float, typer.Option(help="Microns per pixel of a tile.")] = 0.5,
    overlap: Annotated[int, typer.Option(min=0, help="Pixels that neighbours share.")] = 0,
    name: Annotated[
        str | None, typer.Option(help="What the encoder is called; else its architecture and a digest of its weights.")
    ] = None,
    pipeline: Annotated[
        str | None, typer.Option(help="Pipeline file that says all this: `data`, and `model.encoder` or `model`.")
    ] = None,
    set_: Set = None,
    device: Annotated[str, typer.Option(help="Where it computes: auto, cpu, cuda.")] = "auto",
) -> None:
    """Write the features of a site's slides as TRIDENT lays them out, for `source: features` and other tools.

    Every slide's file appears whole or not at all, so the same command goes on where it was stopped.
    """
    from medfl import config
    from medfl.config.yaml_file import validate
    from medfl.pipeline.extract_features import extract_features
    from medfl.pipeline.frozen_encoder import FrozenEncoder
    from medfl.pipeline.load_pipeline import load_pipeline
    from medfl.pipeline.site_slides import site_slides

    with open_terminal("give the same command again to go on") as terminal, about(site):
        plan = load_pipeline(pipeline, set_ or []) if pipeline else None
        tiles = {"source": "slides", "size": px, "mpp": mpp, "tile": {"overlap": overlap}}
        data = plan.data if plan else validate(config.Data, tiles, Path("the tiles"))
        section = _encoder(plan, weights, backbone, pooling)
        collection = site_slides(site, data)
        terminal.say(f"Slides: {len(collection.slides)}")
        encoder = FrozenEncoder(section, plan.tracking if plan else None, device)
        called = name or encoder.name
        result = extract_features(collection, encoder, data.size, Path(out), called, terminal.say)
        terminal.say(f"Features: {len(result.written)} written, {len(result.present)} there already: {result.folder}")
        table = f"the labels lie in {result.table}" if result.table else "with `features: {table: ...}` for the labels"
        terminal.say(
            f"Next: in a site file, `data: {{source: features, root: {out}}}`, {table}; `model.dim: {encoder.dim}`"
        )
        if result.damaged:
            sentence = (
                f"{len(result.damaged)} of {len(collection.slides)} slides cannot be read: {'; '.join(result.damaged)}"
            )
            if not (data.tile and data.tile.skip_damaged):
                raise MedflError(f"{sentence}; the features of the others are written")
            terminal.say(f"WARNING: {sentence}")


def _encoder(plan: Pipeline | None, weights: str | None, backbone: str | None, pooling: str | None) -> TileEncoder:
    """What --weights names, else the pipeline. Raises MedflError where neither does."""
    from medfl.config import TileEncoder
    from medfl.config.yaml_file import validate

    facts: dict[str, object] = {"weights": weights, "backbone": backbone, "pooling": pooling}
    if weights is None:
        if plan is None or (backbone or pooling):
            raise MedflError("--weights is missing: which encoder gives the features; --weights package, for example")
        if plan.model.encoder is not None:
            return plan.model.encoder
        if plan.model.mil is not None:
            raise MedflError("the pipeline names no `model.encoder`; state it there, or --weights here")
        facts = {key: value for key, value in plan.model.model_dump().items() if key in TileEncoder.model_fields}
    return validate(TileEncoder, {key: value for key, value in facts.items() if value is not None}, Path("--weights"))
