"""Write docs/figures/funnel.png: the head of the demo's funnel report, as a browser shows it.

usage: python tools/picture.py [REPORT.json]

The report is results/demo-report.json, which `penchant demo` wrote as run/report.json; a path copies another one there
first. It holds numbers alone, no row of the data. Needs chromium.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from penchant.evaluation.funnel.page import write_page
from penchant.evaluation.funnel.report import FunnelReport

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "results" / "demo-report.json"
PICTURE = ROOT / "docs" / "figures" / "funnel.png"
SIZE = "1200,775"


def main() -> None:
    if len(sys.argv) > 1:
        shutil.copy(sys.argv[1], REPORT)
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("no chromium here: install it, or open the demo's report.html and take the picture by hand")
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        write_page(FunnelReport.from_json(REPORT.read_text()), page)
        quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        offline = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
        shown = [f"--user-data-dir={folder}/profile", f"--screenshot={PICTURE}", f"--window-size={SIZE}"]
        subprocess.run([browser, *quiet, *offline, *shown, page.as_uri()], check=True, capture_output=True)
    print(f"wrote {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
