"""The picture of methods over positions."""

import struct

from refrag_rag.evaluation.picture import methods, plot_positions


def row(arm, positions, k=8, exact=0.3):
    return {
        "arm": arm, "k": k, "positions": positions,
        "exact": exact, "exact_interval": (exact - 0.1, exact + 0.1),
    }  # fmt: skip


ROWS = [
    row("full text", 1400, k=0),
    row("no context", 60, k=0),
    row("embeddings of other passages", 250),
    row("hybrid, p = 0.2", 480),
    row("hybrid, 400 positions", 398),
    row("hybrid, p = 0.2", 600, k=4),
    row("text chosen by hybrid, 250 positions", 247),
    row("best passages as text, 250 positions", 250, k=0),
    row("best passages as text, positions of p = 0.2", 480),
]


def test_budgets_of_a_method_are_one_line_and_controls_are_none():
    found = {name: [one["positions"] for one in rows] for name, rows in methods(ROWS).items()}
    assert found == {
        "full text": [1400],
        "hybrid, k = 8": [398, 480],
        "hybrid, k = 4": [600],
        "text chosen by hybrid, k = 8": [247],
        "best passages as text": [250, 480],
    }


def test_a_panel_a_file(tmp_path):
    sizes = []
    for count in (1, 2):
        path = tmp_path / f"{count}.png"
        plot_positions({f"file {n}": ROWS for n in range(count)}, path)
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        sizes.append(struct.unpack(">II", path.read_bytes()[16:24]))
    (narrow, height), (wide, same) = sizes
    assert (wide, same) == (2 * narrow, height)
