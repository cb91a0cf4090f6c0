"""What a run would cost, before it is run."""

from __future__ import annotations

from medfl.cli.terminal import Terminal
from medfl.data.bag_store import stored_bytes
from medfl.data.catalog import counted_words
from medfl.pipeline.build_site import steps_by_site
from medfl.pipeline.plan_checks import check_plan
from medfl.pipeline.prepare import LocalRunSetup
from medfl.runs.model_facts import stain_sentences


def print_plan(prepared: LocalRunSetup, terminal: Terminal) -> None:
    """Print per site patches, groups, steps, bytes a round; then the memory this machine would need.

    Raises:
        MedflError: the data cannot give what the pipeline's gates or selection read.
    """
    model, pipeline = prepared.shared.model, prepared.pipeline
    check_plan(pipeline, prepared.partition.counts())
    wire = 4 * (model.layout.size + model.buffer_layout.size)
    steps = steps_by_site(prepared.sites.values())
    rows = []
    for name in sorted(prepared.sites, key=lambda n: (prepared.sites[n].role != "train", n)):
        site = prepared.sites[name]
        store, trains = site.store, site.role == "train"
        counts = [str(len(store.splits.get(split, ()))) for split in ("train", "val", "test")]
        groups = str(len(set(store.groups.tolist())))
        each = f"{wire / 1e6:.1f} MB" if trains and not pipeline.baseline else "-"
        rows.append([name, site.role.replace("_", "-"), *counts, groups, str(steps.get(name, "-")), each, each])
    for sentence in prepared.partition.left_out():
        terminal.say(sentence)
    columns = ["site", "role", "train", "val", "test", "groups", "steps a round", "down a round", "up a round"]
    terminal.table(
        f"{pipeline.name}: {pipeline.baseline or prepared.shared.chain}, {pipeline.training.rounds} rounds",
        columns,
        rows,
    )
    most = max(steps.values())
    scratch = sum(link.scratch_bytes(most, model.layout.padded) for link in prepared.shared.chain.methods)
    # weights, gradients, momentum; start, reply; sum, state, previous
    vectors = 8 * 4 * model.layout.padded
    patches = sum(stored_bytes(site.store) for site in prepared.sites.values())
    rest = sum(tensor.numel() for tensor in model.frozen().values())
    frozen = f" and {rest:,} frozen values that stay where they are" if rest else ""
    words = counted_words(share.catalog for share in prepared.partition.sites)
    stored = "features" if pipeline.model.mil else words
    total = sum(steps.values()) * pipeline.training.rounds
    terminal.say(
        f"Model: {model.spec.backbone}, {model.layout.size:,} trainable parameters{frozen}, on {model.device.type}.",
        f"Memory besides activations: vectors {vectors / 1e6:.0f} MB, method {scratch / 1e6:.0f} MB, "
        f"{stored} {patches / 1e6:.0f} MB (memory-mapped on a CPU).",
        f"Work: {total:,} local steps of {pipeline.training.batch_size} {words}.",
        *prepared.cores.sentences(),
        *stain_sentences(pipeline.model_dump()),
    )
