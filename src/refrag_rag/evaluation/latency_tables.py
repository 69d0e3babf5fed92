"""The figures of `refrag bench latency` as Markdown and as plots in the shape of the paper's."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from refrag_rag.errors import InputError

# TTFT over the plain decoder's, batch 1, LLaMA-2-7B on one A100 (arXiv 2509.01092 v2). Those in
# EXACT are given in its text, the others were read off its figure.
PAPER: Mapping[int, Mapping[int, float]] = {
    8: {512: 1.1, 1024: 2.1, 2048: 3.9, 4096: 6.5, 8192: 7.4, 16384: 9.2, 32768: 11.8, 65536: 15.5},
    16: {
        512: 1.2, 1024: 2.2, 2048: 3.7, 4096: 7.6, 8192: 13.8, 16384: 16.53, 32768: 22.8,
        65536: 32.99,
    },
    32: {
        512: 1.2, 1024: 2.2, 2048: 3.9, 4096: 7.3, 8192: 16.1, 16384: 30.85, 32768: 40.9,
        65536: 64.0,
    },
}  # fmt: skip
EXACT = {(16, 16384), (32, 16384), (16, 65536)}
HEAD = (
    "context", "k", "positions", "plain", "cached", "speed-up", "ceiling", "of the ceiling",
    "ours / bare", "not cached", "speed-up",
)  # fmt: skip
MORE = (
    "context", "k", "plain TTIT", "ours TTIT", "ratio", "plain tokens/s", "ours tokens/s",
    "not cached tokens/s", "KV cache plain", "KV cache ours", "peak plain", "peak ours",
)  # fmt: skip


def speed_up(cell: Mapping[str, Any], side: str = "cached") -> float:
    """TTFT of the plain decoder over that of a side."""
    return median(cell, "plain", "ttft") / median(cell, side, "ttft")


def ceiling(cell: Mapping[str, Any]) -> float:
    """The same for bare forward passes of as many positions."""
    return median(cell, "bare_full", "seconds") / median(cell, "bare", "seconds")


def overhead(cell: Mapping[str, Any]) -> float:
    """Our TTFT over a bare forward pass of as many positions, run by run."""
    return float(cell["overhead"]["median"])


def of_ceiling(cell: Mapping[str, Any]) -> float:
    """Speed-up over ceiling, each side held against the bare forward pass right behind it."""
    return float(cell["plain_overhead"]["median"]) / overhead(cell)


def median(cell: Mapping[str, Any], side: str, name: str) -> float:
    """The median of a side's value."""
    return float(cell[side][name]["median"])


def markdown(report: Mapping[str, Any]) -> str:
    """Two tables for every batch size, and where and how they were measured."""
    parts = [_heading(report)]
    paper = report["settings"]["model"] == "llama-7b"
    for batch in report["settings"]["batches"]:
        cells = [cell for cell in report["cells"] if cell["batch"] == batch]
        head = [*HEAD, "the paper's"] if paper and batch == 1 else list(HEAD)
        parts.append(f"**Time to the first token, batch {batch}**\n")
        parts.append(_table(head, (_first(cell, paper=len(head) > len(HEAD)) for cell in cells)))
        parts.append(f"**Later tokens and memory, batch {batch}**\n")
        parts.append(_table(MORE, map(_later, cells)))
    return "\n".join(parts)


def plot(report: Mapping[str, Any], target: Path) -> None:
    """Speed-ups of TTFT, TTIT and throughput over the context, one line for every k.

    Raises
    ------
    InputError
        If matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise InputError("Plots need matplotlib: pip install 'refrag-rag[train]'.") from error
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    cells = [one for one in report["cells"] if one["batch"] == report["settings"]["batches"][0]]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for k in sorted({cell["k"] for cell in cells}):
        rows = sorted((c for c in cells if c["k"] == k), key=lambda c: int(c["context"]))
        contexts = [row["context"] for row in rows]
        line = axes[0].plot(contexts, [speed_up(c) for c in rows], "o-", label=f"k = {k} cached")
        color = line[0].get_color()
        axes[0].plot(contexts, [ceiling(c) for c in rows], ":", color=color, label="its ceiling")
        axes[0].plot(
            contexts, [speed_up(c, "not_cached") for c in rows], "--", color=color,
            label="not cached",
        )  # fmt: skip
        axes[1].plot(contexts, [_ttit_ratio(c) for c in rows], "o-", color=color, label=f"k = {k}")
        gains = [_throughput_ratio(c) for c in rows]
        axes[2].plot(contexts, gains, "o-", color=color, label=f"k = {k}")
    for axis, title in zip(axes, ("TTFT", "TTIT", "throughput"), strict=True):
        axis.set(title=f"{title}: times the plain decoder", xlabel="context tokens")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
        axis.axhline(1, color="grey", linewidth=0.5)
        axis.grid(visible=True, alpha=0.3)
        axis.legend(fontsize=7)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=120)
    plt.close(figure)


def _first(cell: Mapping[str, Any], *, paper: bool) -> list[str]:
    row = [
        f"{cell['context']:,}",
        str(cell["k"]),
        f"{cell['positions']:,} / {cell['full_positions']:,}",
        _spread(cell, "plain", "ttft"),
        _spread(cell, "cached", "ttft"),
        f"{speed_up(cell):.1f}x",
        f"{ceiling(cell):.1f}x",
        f"{of_ceiling(cell):.0%}",
        f"{overhead(cell):.2f}",
        _spread(cell, "not_cached", "ttft"),
        f"{speed_up(cell, 'not_cached'):.1f}x",
    ]
    if paper:
        known = PAPER.get(cell["k"], {}).get(cell["context"])
        sign = "" if (cell["k"], cell["context"]) in EXACT else "about "
        row.append("" if known is None else f"{sign}{known:g}x")
    return row


def _later(cell: Mapping[str, Any]) -> list[str]:
    has = "ttit" in cell["plain"] and "ttit" in cell["cached"]
    return [
        f"{cell['context']:,}",
        str(cell["k"]),
        _spread(cell, "plain", "ttit") if has else "",
        _spread(cell, "cached", "ttit") if has else "",
        f"{_ttit_ratio(cell):.2f}x" if has else "",
        *(f"{median(cell, side, 'throughput'):.2f}" for side in ("plain", "cached", "not_cached")),
        *(f"{cell['kv_bytes'][side] / 2**20:,.1f} MiB" for side in ("plain", "ours")),
        *(f"{cell[side]['peak_bytes'] / 2**20:,.0f} MiB" for side in ("plain", "cached")),
    ]


def _ttit_ratio(cell: Mapping[str, Any]) -> float:
    if "ttit" not in cell["plain"] or "ttit" not in cell["cached"]:
        return float("nan")
    return median(cell, "plain", "ttit") / median(cell, "cached", "ttit")


def _throughput_ratio(cell: Mapping[str, Any]) -> float:
    return median(cell, "cached", "throughput") / median(cell, "plain", "throughput")


def _spread(cell: Mapping[str, Any], side: str, name: str) -> str:
    found = cell[side][name]
    scale, unit = (1000, "ms") if found["median"] < 1 else (1, "s")
    low, middle, high = (found[place] * scale for place in ("low", "median", "high"))
    return f"{_short(middle)} {unit} ({_short(low)} to {_short(high)})"


def _short(value: float) -> str:
    """Three digits, and whole numbers above."""
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"


def _heading(report: Mapping[str, Any]) -> str:
    where, settings = report["machine"], report["settings"]
    sides = ("plain", "cached", "not_cached", "bare", "bare_full")
    # the plain decoder's runs belong to all k of a context: count them once
    seen = {
        (cell["context"], cell["batch"], side, 0 if side in ("plain", "bare_full") else cell["k"]):
        cell[side]
        for cell in report["cells"]
        for side in sides
    }  # fmt: skip
    runs, thrown, disturbed = (
        sum(one[name] for one in seen.values()) for name in ("runs", "thrown_away", "disturbed")
    )
    place = where["accelerator"] or f"{where['processor']}, {where['threads']} threads"
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    return (
        f"`{settings['model']}`, {where['decoder_parameters'] / 1e6:.0f} million parameters, "
        f"encoder {where['encoder_parameters'] / 1e6:.0f} million; {where['dtype']}, "
        f"{where['attention']} attention; {place}. Python {where['python']}, {versions}. "
        f"{report['around']} positions outside spans, passages of {report['passage']} tokens, "
        f"answers of {settings['tokens']} tokens; medians, lowest and highest. {runs} runs kept, "
        f"{thrown} thrown away because a neighbour had the cores, {disturbed} of those kept "
        "disturbed too.\n"
    )


def _table(head: Sequence[str], rows: Iterator[list[str]] | Any) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
