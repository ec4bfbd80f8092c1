#!/usr/bin/env python3
"""Draws docs/img/*.png from the kept results; measures nothing.

    python benchmarks/plots.py [--quick]      (--quick draws the results of quick runs into the cache, not into docs)

Runs itself again in the environment that has matplotlib, if this interpreter has none.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from harness import envs

#: one colour per library in every picture; ours is the only saturated one
COLOURS = {
    "ours": "#d1495b", "billiard 4": "#30638e", "mp.Pool": "#003d5b", "PPE": "#00798c", "pebble": "#8a9a5b",
    "loky": "#b08968", "mpire": "#7f7f7f", "deadpool": "#b0a8b9", "socketpair": "#222222",
}  # fmt: skip
NAMES = {"ours": "billiard 5", "billiard 4": "billiard 4.3.2", "PPE": "ProcessPoolExecutor", "mp.Pool": "mp.Pool"}


def name_of(library):
    return NAMES.get(library, library)


def throughput(plt, results, out):
    """Bars: tasks per second by library, for three ways of submitting."""
    rows = {row["key"]: row for row in results["throughput"]["rows"]}
    kinds = [(key, rows[key]["title"]) for key in ("burst", "map1", "imap_unordered") if key in rows]
    figure, axes = plt.subplots(1, len(kinds), figsize=(4.6 * len(kinds), 3.8))
    for axis, (key, title) in zip(axes, kinds, strict=True):
        medians = {k: v for k, v in rows[key]["medians"].items() if v and k in COLOURS}
        order = sorted(medians, key=medians.get)
        bars = axis.barh(
            [name_of(k) for k in order], [medians[k] / 1e3 for k in order], color=[COLOURS[k] for k in order]
        )
        axis.bar_label(bars, [f"{medians[k] / 1e3:.0f} k" for k in order], padding=3, fontsize=8)
        axis.margins(x=0.15)
        axis.set_title(title.replace("`", ""), fontsize=10)
        axis.set_xlabel("thousand per second")
    save(figure, out / "throughput.png", results["throughput"])


def latency(plt, results, out):
    """How long one `apply` takes: the whole distribution, not its middle."""
    curves = results["sweeps"]["curves"]["latency"]
    figure, axis = plt.subplots(figsize=(7.5, 4.2))
    for library, points in curves.items():
        samples = sorted(points["0"].get("samples_us", ()))
        if not samples:
            continue
        share = [(i + 1) / len(samples) for i in range(len(samples))]
        style = {"linestyle": "--"} if library == "socketpair" else {"linewidth": 2.4 if library == "ours" else 1.3}
        label = "bare socketpair ping-pong" if library == "socketpair" else name_of(library)
        axis.plot(samples, share, color=COLOURS[library], label=label, **style)
    axis.set(xscale="log", xlabel="µs for one apply(tiny)", ylabel="share of the calls done by then", ylim=(0, 1.01))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    save(figure, out / "latency.png", results["sweeps"])


def payload(plt, results, out):
    figure, axis = plt.subplots(figsize=(7.5, 4.2))
    for library, points in results["sweeps"]["curves"]["payload"].items():
        line = sorted((int(x), p["gb_s"]) for x, p in points.items() if "gb_s" in p)
        axis.plot(*zip(*line, strict=True), "o-", color=COLOURS[library], label=name_of(library), markersize=3,
                  linewidth=2.4 if library == "ours" else 1.3)  # fmt: skip
    ticks = [
        (1 << 10, "1 KB"),
        (1 << 14, "16 KB"),
        (1 << 18, "256 KB"),
        (1 << 22, "4 MB"),
        (1 << 26, "64 MB"),
        (1 << 28, "256 MB"),
    ]
    axis.set(xscale="log", yscale="log", xlabel="bytes there and back", ylabel="GB/s, both ways counted")
    axis.set_xticks([t for t, _ in ticks], [text for _, text in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    save(figure, out / "payload.png", results["sweeps"])


def task_length(plt, results, out):
    figure, axis = plt.subplots(figsize=(7.5, 4.2))
    for library, points in results["sweeps"]["curves"]["length"].items():
        line = sorted((float(x), p["rate"]) for x, p in points.items() if "rate" in p)
        axis.plot(*zip(*line, strict=True), "o-", color=COLOURS[library], label=name_of(library), markersize=3,
                  linewidth=2.4 if library == "ours" else 1.3)  # fmt: skip
    lengths = sorted({float(x) for points in results["sweeps"]["curves"]["length"].values() for x in points})
    axis.plot(
        lengths,
        [2e6 / x for x in lengths],
        color="#222222",
        linestyle="--",
        linewidth=1,
        label="two cores, no overhead",
    )
    top = max(p["rate"] for pts in results["sweeps"]["curves"]["length"].values() for p in pts.values() if "rate" in p)
    axis.set(
        xscale="log", yscale="log", xlabel="CPU time of one task, µs", ylabel="tasks per second", ylim=(2, 2 * top)
    )
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    save(figure, out / "task-length.png", results["sweeps"])


def timeline(plt, results, out):
    """One small picture per library, each on its own scale: what a kill every second does to the results."""
    curves = {k: p["0"] for k, p in results["sweeps"]["curves"]["timeline"].items()}
    figure, axes = plt.subplots(len(curves), 1, figsize=(7.5, 1.15 * len(curves)), sharex=True)
    for axis, (library, points) in zip(axes, curves.items(), strict=True):
        rates = points.get("per_s", [])
        times = [(i + 0.5) * points.get("bin_s", 0) for i in range(len(rates))]
        axis.fill_between(times, [r / 1e3 for r in rates], color=COLOURS[library], step="mid", alpha=0.9)
        for kill in points.get("kills", ()):
            axis.axvline(kill, color="#999999", linewidth=0.7, linestyle=":")
        axis.set_ylim(bottom=0)
        said = points.get("failed", 0)
        axis.set_title(
            f"{name_of(library)}" + (f": {said}" if isinstance(said, str) else ""), fontsize=8, loc="left", pad=2
        )
        axis.tick_params(labelsize=7)
    axes[-1].set_xlabel("seconds; dotted: a worker is killed")
    figure.supylabel("thousand results per second", fontsize=8)
    save(figure, out / "kills.png", results["sweeps"])


def save(figure, path, document):
    machine = document["machine"]
    figure.text(0.995, 0.002, f"Python {machine['python']}, {machine['cores']} cores, {machine['cpu']}", ha="right",
                va="bottom", fontsize=6, color="#777777")  # fmt: skip
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    print(f"drew {path.name}")


#: picture -> the result it needs
PICTURES = {throughput: "throughput", latency: "sweeps", payload: "sweeps", task_length: "sweeps", timeline: "sweeps"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    try:
        import matplotlib
    except ImportError:
        if os.environ.get("BENCH_PLOTS"):
            raise
        variables = {**envs.variables_of("plots"), "BENCH_PLOTS": "1"}
        return subprocess.run([envs.python_of("plots"), __file__, *sys.argv[1:]], env=variables).returncode
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    where = envs.cache_dir() / "quick" if options.quick else envs.BENCHMARKS / "results"
    out = where / "img" if options.quick else envs.CHECKOUT / "docs" / "img"
    results = {p.stem: json.loads(p.read_text()) for p in Path(where).glob("*.json")}
    missing = 0
    for draw, needs in PICTURES.items():
        if needs not in results:
            print(f"no {needs}.json: {draw.__name__} not drawn", file=sys.stderr)
            missing += 1
            continue
        draw(plt, results, out)
        plt.close("all")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
