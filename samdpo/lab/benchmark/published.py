"""What the paper itself reports: its own data and splits, so beside our numbers and never among them.

Table 1, Table 2, and those numbers of its Figure 3 that its Sec. 4.1 states in words. All in percent, as printed.
"""

from __future__ import annotations

from samdpo.lab.benchmark.tables import Section, Table

_COLUMNS = ("", "X-ray IoU", "X-ray Dice", "ultrasound IoU", "ultrasound Dice", "AMOS-CT mDice", "AMOS-CT mSDC")
_DICE_COLUMNS = ("", "X-ray Dice", "AMOS-CT mDice")

_TABLE_1 = (
    ("10% + 10% unannotated: ours", "74.30", "78.87", "64.35", "75.88", "77.69", "78.34"),
    ("20%: - alignment", "75.02", "79.13", "67.51", "81.38", "79.20", "80.66"),
    ("10%: - alignment", "68.43", "75.60", "61.44", "73.62", "74.77", "76.06"),
    ("10%: - alignment - VQA", "66.90", "73.35", "57.60", "70.53", "74.08", "75.41"),
    ("10%: - alignment - VQA - GPT4", "63.16", "72.76", "54.26", "68.89", "73.16", "74.89"),
    ("10%: - alignment - VQA - CAM", "50.38", "57.02", "45.16", "59.05", "69.97", "71.45"),
)
_TABLE_2 = (
    ("10% + 10%: loss for best candidate", "70.37", "77.09", "61.76", "73.81", "75.01", "76.36"),
    ("10% + 10%: rating", "73.99", "78.41", "63.97", "75.52", "77.23", "77.98"),
    ("10% + 10%: ranking", "74.30", "78.87", "64.35", "75.88", "77.69", "78.34"),
    ("10% + 20%: ranking", "79.74", "85.15", "73.56", "84.23", "80.54", "81.95"),
    ("10% + 40%: ranking", "88.96", "89.68", "85.92", "88.15", "84.30", "85.70"),
)
_FIGURE_3 = (
    ("20%: U-Net", "58.66", "59.35"),
    ("20%: nnU-Net", "60.97", "65.21"),
    ("20%: SAM", "61.64", "64.93"),
    ("20%: SAM-Med2D", "67.81", "66.57"),
    ("20%: SAM-Med3D", None, "72.54"),
    ("20%: Self-prompt", "68.41", "71.83"),
    ("20%: ours", "78.87", "77.69"),
    ("50%: ours", "89.68", "85.70 [1]"),
    ("50%: prompt-only", "91.42", "86.36"),
)
_REMARKS = (
    "Published by the paper; not ours. COVID-QU-Ex, BUSI with UDIAT, and AMOS-CT at the paper's sizes and splits, "
    "SAM-Med2D as backbone: other images, other amounts of them, another network than in our tables.",
)


def published_tables() -> dict[str, Table]:
    """``published_table1``, ``published_table2``, ``published_figure3`` -> table; only the third has a footnote."""
    return {
        "published_table1": Table("Published: the paper's Table 1, in percent", _COLUMNS,
                                  [Section("Components", _TABLE_1)], remarks=_REMARKS),
        "published_table2": Table("Published: the paper's Table 2, in percent", _COLUMNS,
                                  [Section("Preference scoring and unannotated data", _TABLE_2)], remarks=_REMARKS),
        "published_figure3": Table(
            "Published: what the paper's text says of its Figure 3, in percent", _DICE_COLUMNS,
            [Section("Share of data: methods", _FIGURE_3)], remarks=_REMARKS,
            notes=("So in the paper's text; its Table 2 has 84.30 as mDice and 85.70 as mSDC.",),
        ),
    }
