"""Write the head of a funnel's report, as a browser shows it, to docs/figures/.

usage: python tools/picture.py [NAME [REPORT.json]]

NAME is demo (funnel.png, the default) or the data of the funnel of four (funnel-four-NAME.png). The report is
results/NAME-report.json, which `penchant demo` or `penchant reproduce funnel` wrote as report.json into a run's folder;
a path copies one there first. It holds numbers alone, no row of the data. Needs chromium.
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
PICTURES = {
    "demo": "funnel.png",
    "ml-1m-liked": "funnel-four-ml-1m-liked.png",
    "bazaar-small-pictures": "funnel-four-bazaar-small-pictures.png",
}
SIZE = "1200,775"


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "demo"
    if name not in PICTURES:
        sys.exit(f"no picture {name!r}, there are {', '.join(PICTURES)}")
    report, picture = ROOT / "results" / f"{name}-report.json", ROOT / "docs" / "figures" / PICTURES[name]
    if len(sys.argv) > 2:
        shutil.copy(sys.argv[2], report)
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("no chromium here: install it, or open the demo's report.html and take the picture by hand")
    picture.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        write_page(FunnelReport.from_json(report.read_text()), page)
        quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        offline = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
        shown = [f"--user-data-dir={folder}/profile", f"--screenshot={picture}", f"--window-size={SIZE}"]
        subprocess.run([browser, *quiet, *offline, *shown, page.as_uri()], check=True, capture_output=True)
    print(f"wrote {picture.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
