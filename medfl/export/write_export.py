"""`medfl export`: which formats there are, and a file or folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medfl.errors import MedflError, nearest
from medfl.export.exported_model import ExportedModel
from medfl.pipeline.trained_model import find_model

FORMATS = ("monai-bundle", "onnx")


def export(reference: str, form: str, out: Path) -> list[str]:
    """Write a model in another program's format.

    Args:
        reference: a run folder, an MLflow run id, or `models:/name@alias`.
        form: one of FORMATS.
        out: a folder that does not exist yet; for onnx also a file that ends in `.onnx`.

    Returns:
        Lines for people: where it is, what stays at the sites, what was compared.

    Raises:
        MedflError: no such format, `out` exists, no finished global model, or what the format's writer refuses.
    """
    if form not in FORMATS:
        raise MedflError(f"--format: there is no format {form!r}.{nearest(form, FORMATS)} Known: {', '.join(FORMATS)}")
    single = form == "onnx" and out.suffix == ".onnx"
    targets = [out, out.with_suffix(".json")] if single else [out]
    for path in targets:
        if path.exists() or path.is_symlink():
            raise MedflError(f"--out: {path} exists already; name another one, or remove it")
    if form == "onnx":
        from medfl.export.onnx_file import require_packages, write_onnx

        require_packages()
    else:
        from medfl.export.monai_bundle import write_bundle
    model = find_model(reference)
    if model.reads_bags and form != "onnx":
        raise MedflError(
            f"--format: {reference} reads the features of a whole slide, and {form} is written for models that see "
            f"images; take --format onnx, or use it with `medfl predict`, `medfl.load_model`, or as MLflow serves it"
        )
    source = ExportedModel.of(model)
    lines = []
    with _staged(out) as folder:
        if form == "onnx":
            lines.append(write_onnx(source, folder / (out.name if single else "model.onnx")))
        else:
            write_bundle(source, folder)
        if single:
            for path in targets:
                os.replace(folder / path.name, path)
        else:
            folder.rename(out)
    at_sites = source.kept_at_sites()
    return [f"Exported: {' and '.join(map(str, targets))}", *([at_sites] if at_sites else []), *lines]


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """An empty folder beside `out`, gone afterwards unless it was renamed. Raises MedflError if there is no room."""
    parent = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        parent = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        folder = parent / "whole"
        folder.mkdir()  # with the user's own permissions, unlike the temporary folder around it
        yield folder
    except OSError as error:
        raise MedflError(f"--out: {out} cannot be written: {error.strerror or error}") from None
    finally:
        if parent is not None:
            shutil.rmtree(parent, ignore_errors=True)
