"""What the space `few_shot` is made of: layouts, operations, and its search compared with `nasbench201`.

    NAS_DATA=… python benchmarks/few_shot_space.py -o docs/results/few_shot_space

Omniglot's validation classes, prototypical learner, 300 training episodes a network. Layouts are compared
with the cell of `residual`, at 28×28 pixels (20-way 1-shot) and at 84×84 (5-way 1-shot, the published
drawings as a folder of images, which `--images` names: it is made if it is missing). Operations are compared
each on both edges of the longer path, parallel to a skip connection, in the default layout. The searches are
those of examples/demo.toml. Each line of a table is one `nas run` a seed; what FILE.json or the database
holds already is not run again. Writes FILE.json and FILE.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import zipfile
from pathlib import Path
from typing import Any

from arguments import data
from shell import nas

from nas.training.provenance import environment

DEMO = Path(__file__).parent.parent / "examples" / "demo.toml"
LAYOUTS = ((2, 24), (3, 16), (4, 8), (4, 16))
"""Stages, and channels of the first."""
OPERATIONS = ("conv_1x1", "conv_3x3", "sep_conv_3x3", "avg_pool_3x3", "skip_connect")
CONV4 = {"conv4, strides": "stride", "conv4, pooling": "pool"}
TRAINED = ("--executor=inline", "--learner=prototypical", "--set=budget.train_episodes=300")
SMALL = (*TRAINED, "--tasks=omniglot", "--set=tasks.ways=20")


def large(images: Path) -> tuple[str, ...]:
    return (*TRAINED, "--tasks=image_folder", f"--set=tasks.path={images}", "--set=tasks.grayscale=true")


def fixed(space: str, architecture: str, *settings: str) -> tuple[str, ...]:
    """Return the options of a search of one architecture."""
    chosen = f"--set=controller.architectures={json.dumps([architecture])}"
    return (f"--space={space}", "--controller=fixed", chosen, "--trials=1", *settings)


def searches(images: Path) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the options of each row's search, table by table."""
    layouts = {
        **{
            f"{stages} stages, {channels} channels": fixed(
                "few_shot", "residual", f"--set=space.stages={stages}", f"--set=space.channels={channels}"
            )
            for stages, channels in LAYOUTS
        },
        **{name: fixed("chain", "conv4", f"--set=space.downsample={how}") for name, how in CONV4.items()},
        "conv4, pooling, flattened": fixed(
            "chain", "conv4", "--set=space.downsample=pool", "--set=space.readout=flatten"
        ),
    }
    return {
        "28×28": {name: (*options, *SMALL) for name, options in layouts.items()},
        "84×84": {name: (*options, *large(images)) for name, options in layouts.items()},
        "operations": {
            name: (
                *fixed("few_shot", "/".join([f"max_pool|{name}~0|+|skip_connect~0|{name}~1|"] * 2)),
                *SMALL,
            )
            for name in OPERATIONS
        },
        "searches": {
            space: (str(DEMO), f"--space={space}", "--executor=inline")
            for space in ("few_shot", "nasbench201")
        },
    }


def unpack(archive: Path, images: Path) -> None:
    """Write each character of the background set as a folder of its drawings."""
    with zipfile.ZipFile(archive) as published:
        for name in published.namelist():
            if name.endswith(".png"):
                _, alphabet, character, file = name.split("/")
                target = images / f"{alphabet}-{character}" / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(published.read(name))


def measured(name: str, options: tuple[str, ...], seed: int, known: set[str], db: str) -> dict[str, Any]:
    if name in known:
        nas("resume", name, db=db)
    else:
        nas("run", *options, f"--seed={seed}", f"--name={name}", db=db)
    trials = [row for row in json.loads(nas("show", name, "-f", "json", db=db))["trial_rows"] if row["score"]]
    best = max(trials, key=lambda row: row["score"])
    return {
        "seed": seed,
        "scored": len(trials),
        "mean": statistics.mean(row["score"] for row in trials),
        "seconds": sum(row["seconds"] for row in trials if row["reused"] is None),
        "best": {key: best[key] for key in ("score", "ci95", "parameters", "macs", "architecture")},
    }


def table(report: dict[str, Any]) -> str:
    results = report["results"]

    def over_seeds(values: list[float]) -> str:
        return f"{100 * statistics.mean(values):.1f} ± {100 * statistics.stdev(values):.1f}"

    lines = [
        "# The space `few_shot`: layouts, operations, and a search compared with `nasbench201`\n",
        f"`{report['command']}`\n",
        "Accuracy in % on validation tasks, mean ± standard deviation over the seeds; seconds a network or a",
        "search, on one core. Compared on the very tasks reported, which flatters the best row a little; the",
        "best of a search also had the luckiest training seed, which flatters more. The last maps of conv4",
        "are averaged, unless said otherwise; the papers of pooling networks flatten them, which differs at",
        "84×84 pixels.",
        *(
            f"\n{', '.join(later['rows'])}: measured later; seconds of another day do not compare."
            for later in report.get("later", ())
        ),
    ]
    titles = {
        "28×28": "Layouts with the cell of `residual`, Omniglot 20-way 1-shot, 300 training episodes",
        "84×84": "The same at 84×84 pixels, 5-way 1-shot, classes of Omniglot's background set",
        "operations": "One operation on both edges of the longer path, parallel to a skip, 20-way 1-shot",
    }
    for name, title in titles.items():
        lines += [f"\n## {title}\n", "| | accuracy | weights | MACs | seconds |", "|---|---|---|---|---|"]
        for row, runs in results[name].items():
            best = runs[0]["best"]
            seconds = statistics.mean(run["seconds"] for run in runs)
            lines.append(
                f"| {row} | {over_seeds([run['best']['score'] for run in runs])} | "
                f"{best['parameters'] / 1e3:.0f}k | {best['macs'] / 1e6:.1f}M | {seconds:.0f} |"
            )
    lines += [
        "\n## The demo's search, 24 trials of evolution on drawn characters, 5-way 1-shot\n",
        "| space | best | mean of all trials | weights of the best | seconds |",
        "|---|---|---|---|---|",
    ]
    for space, runs in results["searches"].items():
        weights = ", ".join(f"{run['best']['parameters'] / 1e3:.0f}k" for run in runs)
        seconds = statistics.mean(run["seconds"] for run in runs)
        lines.append(
            f"| {space} | {over_seeds([run['best']['score'] for run in runs])} | "
            f"{over_seeds([run['mean'] for run in runs])} | {weights} | {seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="two or more")
    parser.add_argument("--images", type=Path, default=Path("omniglot-images"))
    parser.add_argument("--db", default="sqlite:///few_shot_space.db")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()

    if len(set(arguments.seeds)) < 2:
        parser.error("--seeds: a standard deviation takes two or more")
    archive = data(parser, "omniglot/images_background.zip")
    if not arguments.images.exists():
        unpack(archive, arguments.images)
    nas("db", "upgrade", db=arguments.db)
    known = {row["search"] for row in json.loads(nas("ls", "--limit=0", "-f", "json", db=arguments.db))}
    file = arguments.output.with_suffix(".json")
    command = f"python benchmarks/few_shot_space.py --seeds {' '.join(map(str, arguments.seeds))}"
    report: dict[str, Any] = {"command": command, "environment": environment(), "results": {}}
    if file.exists() and (recorded := json.loads(file.read_text()))["command"] == command:
        report = recorded
    new = []
    for part, rows in searches(arguments.images.resolve()).items():
        for i, (row, options) in enumerate(rows.items()):
            if row in report["results"].setdefault(part, {}):
                continue
            names = {seed: f"{part.replace('×', 'x')}-{i}-{seed}" for seed in arguments.seeds}
            report["results"][part][row] = [
                measured(name, options, seed, known, arguments.db) for seed, name in names.items()
            ]
            new.append(f"{row} ({part})")
    if new and report["environment"] != environment():
        report.setdefault("later", []).append({"rows": new, "environment": environment()})
    file.write_text(json.dumps(report, indent=1) + "\n")
    arguments.output.with_suffix(".md").write_text(table(report))


if __name__ == "__main__":
    main()
