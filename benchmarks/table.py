"""Print the rows of `rbm bench run --json FILE` as a Markdown table.

rbm bench run --cases 'meta-step/*,adapt/*,attack/*' --samples 3 --json reports/speed/cpu.jsonl
python benchmarks/table.py reports/speed/cpu.jsonl
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

HEADER = """\
| case | ours | peer / ours | the same, per row | our rows forward / back | survive | commit |
|---|---|---|---|---|---|---|"""


def line(row: dict[str, Any]) -> str:
    ours, peer = row["ours"], row["peer"]
    seconds, other = (statistics.median(side["seconds"]) for side in (ours, peer))
    rows, others = (side["forwards"] + side["backwards"] for side in (ours, peer))
    took = f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
    survive = "" if ours["survived"] is None else f"{100 * ours['survived']:.0f} %"
    ratios = f"{other / seconds:.2f} | {other / others / (seconds / rows):.2f}"
    sent = f"{ours['forwards']:,} / {ours['backwards']:,}"
    return f"| `{row['case']}` | {took} | {ratios} | {sent} | {survive} | {row['commit'][:7]} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    try:
        texts = [text for path in parser.parse_args().files for text in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise SystemExit(f"files: {error}") from None
    rows = [json.loads(text) for text in texts]
    print(HEADER)
    for row in rows:
        if row["ours"] and row["peer"]:
            print(line(row))


if __name__ == "__main__":
    main()
