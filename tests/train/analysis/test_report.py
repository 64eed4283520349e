"""The page that compares runs: as text, and in a browser."""

import base64
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from hex_ssl.train.analysis import ReportConfig, figures, report
from hex_ssl.train.analysis.report import script_safe
from hex_ssl.train.callbacks import OnlineEvaluation
from tests.train.analysis.conftest import hand_made_run

HANG = 300
"""Seconds after which the browser must be stuck, even on a slow and busy machine."""

HOSTILE = "</script><script>window.hostile = 1</script><img src=x onerror='window.hostile = 2'>{{data}}"


@pytest.fixture(scope="module")
def page(analysed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two runs."""
    folder = tmp_path_factory.mktemp("page")
    runs = [
        hand_made_run(folder / "with-hex", analysed),
        hand_made_run(folder / "without", analysed, "off", losses=(3.0, 2.75)),
    ]
    return report(ReportConfig(runs=[str(run) for run in runs], output=str(folder / "page.html")))


def data_of(page: Path) -> Any:
    text = page.read_text(encoding="utf-8")
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0])


def test_the_data_are_the_runs(page: Path) -> None:
    with_hex, without = data_of(page)["runs"]
    assert (with_hex["name"], without["name"]) == ("with-hex", "without")
    assert [row["loss"] for row in with_hex["metrics"]] == [3.0, 2.5, 2.125]
    assert with_hex["overview"]["loss"] == 2.125
    assert without["overview"]["loss"] == 2.75
    assert (with_hex["overview"]["HEX"], without["overview"]["HEX"]) == ("adaptive", "off")
    assert with_hex["evaluations"][0]["rows"][0]["top1"] == 0.734375
    analysis = json.loads((Path(with_hex["folder"]) / "analysis" / "analysis.json").read_text(encoding="utf-8"))
    assert with_hex["analysis"] == analysis


def test_the_page_names_no_other_file(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.findall(r"(?:src|href)\s*=\s*\"(?!data:)[^\"]", text)
    assert not re.findall(r"@import|url\(|fetch\(|XMLHttpRequest|https?://(?!www\.w3\.org/2000/svg)", text)


def test_a_run_may_lack_everything_but_its_configuration(analysed: Path, tmp_path: Path) -> None:
    run = hand_made_run(tmp_path / "bare", analysed)
    for name in ("analysis", "evaluation"):
        shutil.rmtree(run / name)
    (run / "metrics.jsonl").unlink()
    (found,) = data_of(report(ReportConfig([str(run)], str(tmp_path / "page.html"))))["runs"]
    assert found["analysis"] is None
    assert found["evaluations"] == found["metrics"] == []


def test_runs_with_equal_names_are_distinguished(analysed: Path, tmp_path: Path) -> None:
    runs = [hand_made_run(tmp_path / each / "run", analysed) for each in ("a", "b")]
    found = data_of(report(ReportConfig([str(run) for run in runs], str(tmp_path / "page.html"))))["runs"]
    assert [run["name"] for run in found] == ["a/run", "b/run"]


def seeds(folder: Path, analysed: Path) -> list[str]:
    """Three runs of one setting, two of them of one seed, and one of another setting."""
    found = []
    for name, hex_name, seed, losses in (
        ("a", "adaptive", 0, (3.0, 2.0)),
        ("b", "adaptive", 1, (4.0, 2.5)),
        ("c", "adaptive", 1, (9.0, 9.0)),
        ("d", "off", 0, (5.0, 5.0)),
    ):
        run = hand_made_run(folder / name, analysed, hex_name, losses)
        config = (run / "config.yaml").read_text(encoding="utf-8")
        (run / "config.yaml").write_text(config.replace("seed: 0", f"seed: {seed}"), encoding="utf-8")
        found.append(str(run))
    return found


def test_runs_that_differ_in_the_seed_alone_are_a_group(analysed: Path, tmp_path: Path) -> None:
    page = report(ReportConfig(seeds(tmp_path, analysed), str(tmp_path / "page.html")))
    assert [run["group"] for run in data_of(page)["runs"]] == [0, 0, 2, 3]


def test_the_page_has_the_colours_of_the_pictures(page: Path) -> None:
    data = data_of(page)
    assert data["colours"] == list(figures.COLOURS)
    assert data["group_colours"] == figures.GROUP_COLOURS


def test_the_protocol_of_the_knn_is_that_of_the_training(page: Path) -> None:
    training = OnlineEvaluation(cast(Any, None))
    protocol = f"k = {training.k}, T = {training.temperature}"
    assert data_of(page)["metric_titles"]["knn_accuracy"] == f"k-NN accuracy, {protocol}"
    assert protocol in figures.CURVES["figure-11-knn"][0]


def test_errors_name_the_folder_and_leave_no_page(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected `runs` to name at least one run folder, but got none"):
        ReportConfig()
    config = ReportConfig([str(tmp_path)], str(tmp_path / "page.html"))
    with pytest.raises(FileNotFoundError, match="expected a run folder, with a config.yaml in it, but got"):
        report(config)
    (tmp_path / "config.yaml").write_text("[", encoding="utf-8")
    with pytest.raises(ValueError, match="config.yaml to be readable, but got YAMLError"):
        report(config)
    assert not (tmp_path / "page.html").exists()


def test_no_text_ends_the_script() -> None:
    safe = script_safe({HOSTILE: [HOSTILE, float("inf"), {"<!--": True}]})
    assert not re.search("[<>&]", safe)
    assert json.loads(safe) == {HOSTILE: [HOSTILE, None, {"<!--": True}]}


# --- in a browser --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Chromium without a window. Debian: apt install chromium chromium-driver."""
    pytest.importorskip("selenium", reason="selenium is not installed")
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    missing = [name for name, path in programs.items() if path is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not found: apt install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(programs["chromedriver"]))
    driver.set_page_load_timeout(HANG)
    driver.set_script_timeout(HANG)
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: Any) -> Any:
    """Chromium in its initial state: a light desktop screen, and an empty log."""
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.get("about:blank")
    chromium.get_log("browser")
    return chromium


def open_page(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    wait_for(lambda: browser.execute_script("return document.documentElement.dataset.ready") == "true")


def wait_for(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + HANG
    while not holds():
        assert time.monotonic() < end, "the page did not come to show what it should"
        time.sleep(0.05)


def cells(browser: Any, table: str, column: str) -> list[str]:
    selector = f"#{table} tbody td[data-name='{column}']"
    return [cell.get_attribute("data-value") or cell.text for cell in browser.find_elements("css selector", selector)]


def test_the_numbers_on_the_page_are_the_runs(browser: Any, page: Path) -> None:
    open_page(browser, page)
    assert [float(value) for value in cells(browser, "overview-table", "loss")] == [2.125, 2.75]
    shown = [
        each.text for each in browser.find_elements("css selector", "#overview-table td[data-name='knn_accuracy']")
    ]
    assert [each.replace("\u202f", "") for each in shown] == ["62.50%", "62.50%"]
    assert cells(browser, "evaluation-table", "top1") == ["0.734375", "0.5"] * 2
    shown = [each.text for each in browser.find_elements("css selector", "#evaluation-table td[data-name='top1']")]
    assert [each.replace("\u202f", "") for each in shown] == ["73.44%", "50.00 \u00b1 3.13%"] * 2
    shown = [each.text for each in browser.find_elements("css selector", "#evaluation-table td[data-name='top5']")]
    assert [each.replace("\u202f", "") for each in shown] == ["96.88%", "75.00%"] * 2  # no deviation, none shown
    assert cells(browser, "evaluation-table", "draws") == cells(browser, "evaluation-table", "deviation") == []
    assert cells(browser, "settings-table", "setting") == ["loss.hex", "run.epochs", "run.name"]
    browser.execute_script("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    records = [record for run in data_of(page)["runs"] for record in run["analysis"]["records"]]
    for column in ("threshold", "superclass_similarity", "effective_rank"):
        assert [float(each) for each in cells(browser, "analysis-table", column)] == [each[column] for each in records]
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_tables_sort_and_runs_hide(browser: Any, page: Path) -> None:
    open_page(browser, page)
    head = browser.find_element("css selector", "#overview-table th:nth-child(5) button")
    assert head.text.strip() == "loss"
    head.click()
    assert [float(value) for value in cells(browser, "overview-table", "loss")] == [2.75, 2.125]
    head.click()
    assert [float(value) for value in cells(browser, "overview-table", "loss")] == [2.125, 2.75]
    lines = "return document.querySelectorAll(\"[data-chart='loss'] path\").length"
    wait_for(lambda: browser.execute_script(lines) == 2)
    browser.find_element("css selector", "#runs .chip").click()
    wait_for(lambda: browser.execute_script(lines) == 1)
    assert browser.get_log("browser") == []


def test_a_point_tells_its_labels_and_the_plane_zooms(browser: Any, page: Path) -> None:
    open_page(browser, page)
    plane = data_of(page)["runs"][0]["analysis"]["planes"][0]
    canvas = browser.find_element("css selector", "#planes canvas")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", canvas)
    wait_for(lambda: canvas.size["width"] > 100)
    point = """
        const [canvas, x, y] = arguments, box = canvas.getBoundingClientRect();
        const [left, top] = [(x * 0.47 + 0.5) * box.width, (0.5 - y * 0.47) * box.height];
        const at = { clientX: box.left + left, clientY: box.top + top };
        canvas.dispatchEvent(new PointerEvent("pointermove", { ...at, bubbles: true, pointerId: 7 }));
        return document.getElementById("tip").innerText;"""
    text = browser.execute_script(point, canvas, plane["x"][4], plane["y"][4])
    assert re.search(r"image\s+\d+", text)
    row = plane["rows"].index(int(re.search(r"image\s+(\d+)", text)[1]))  # type: ignore[index]
    distance = abs(plane["x"][row] - plane["x"][4]) + abs(plane["y"][row] - plane["y"][4])
    assert distance < 0.02
    assert re.search(rf"(?<!super)class\s+{plane['class'][row]}\b", text)
    assert re.search(rf"superclass\s+{plane['superclass'][row]}\b", text)
    pixels = "return arguments[0].toDataURL()"
    before = browser.execute_script(pixels, canvas)
    browser.execute_script("arguments[0].parentElement.querySelector('[title=\"Zoom in\"]').click()", canvas)
    assert "zoomed" in canvas.get_attribute("class")
    assert browser.execute_script(pixels, canvas) != before
    browser.execute_script("arguments[0].parentElement.querySelector('[title=\"Show all\"]').click()", canvas)
    assert browser.execute_script(pixels, canvas) == before
    assert browser.get_log("browser") == []


def test_text_of_files_is_not_markup(browser: Any, analysed: Path, tmp_path: Path) -> None:
    run = hand_made_run(tmp_path / "run", analysed)
    analysis = run / "analysis" / "analysis.json"
    saved = json.loads(analysis.read_text(encoding="utf-8"))
    for plane in saved["planes"]:
        plane["title"] = HOSTILE
        plane["all_names"] = {kind: dict.fromkeys(names, HOSTILE) for kind, names in plane["all_names"].items()}
    for line in saved["nearest"]:
        line["anchor"] |= {"picture": "javascript:window.hostile = 3", "class": HOSTILE}
    analysis.write_text(json.dumps(saved), encoding="utf-8")
    with open(run / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"epoch": 4, "step": 40, HOSTILE: 1.0}) + "\n")
    results = {"command": HOSTILE, "protocol": {"description": HOSTILE}, "rows": [{HOSTILE: HOSTILE}]}
    (run / "evaluation" / "x.json").write_text(json.dumps(results), encoding="utf-8")
    open_page(browser, report(ReportConfig([str(run)], str(tmp_path / "page.html"), title=HOSTILE)))
    assert browser.title == HOSTILE
    assert browser.find_element("css selector", "h1").text == HOSTILE
    assert browser.execute_script("return window.hostile === undefined")
    assert browser.execute_script("return document.querySelectorAll('script, img[onerror]').length") == 2


def test_curves_are_means_over_the_seeds_or_runs(browser: Any, analysed: Path, tmp_path: Path) -> None:
    open_page(browser, report(ReportConfig(seeds(tmp_path, analysed), str(tmp_path / "page.html"))))
    told = browser.execute_script(
        """const chart = document.querySelector("[data-chart=loss] rect");
        const box = chart.getBoundingClientRect();
        chart.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + 1, clientY: box.top + 5 }));
        return [...document.querySelectorAll("#tip b, #tip .key .key")].map((each) => each.textContent);"""
    )
    # The mean of 3 and 4 with their standard deviation, the second run of one seed, and the other setting.
    assert told == ["epoch 1", "a, mean of 2 seeds", "3.5 \u00b1 0.7071", "c", "9", "d", "5"]
    curves = "return document.querySelectorAll('[data-chart=loss] path[fill=none]').length"
    bands = "return document.querySelectorAll('[data-chart=loss] path.band').length"
    assert (browser.execute_script(curves), browser.execute_script(bands)) == (3, 1)
    browser.find_element("xpath", "//button[text()='each run']").click()
    assert (browser.execute_script(curves), browser.execute_script(bands)) == (4, 0)
    assert browser.get_log("browser") == []


def test_every_chart_names_both_axes(browser: Any, page: Path) -> None:
    open_page(browser, page)
    charts = browser.execute_script(
        """return [...document.querySelectorAll(".chart svg")].map(
            (each) => [...each.querySelectorAll("text")].map((text) => text.textContent))"""
    )
    assert len(charts) > 8
    for chart in charts:
        assert sum(bool(re.search("[a-z]{4}", text)) for text in chart) == 2, chart


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_in_the_light_and_in_the_dark(browser: Any, page: Path, dark: bool) -> None:
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    phone = {"width": 360, "height": 720, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    open_page(browser, page)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    colours = "const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]"
    ink, paper = (sum(map(int, re.findall(r"\d+", each)[:3])) for each in browser.execute_script(colours))
    assert (ink - paper > 350) if dark else (paper - ink > 350)


def test_it_prints(browser: Any, page: Path) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    open_page(browser, page)
    printed = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") >= 2
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(255, 255, 255)"  # also where the screen is dark
    assert browser.execute_script("return getComputedStyle(document.getElementById('theme')).display") == "none"


def test_folded_parts_print_and_are_folded_again(browser: Any, page: Path) -> None:
    open_page(browser, page)
    folded = "return [...document.querySelectorAll('details')].map((each) => !each.open)"
    browser.execute_script("document.querySelector('#analysis details').open = true")
    before = browser.execute_script(folded)
    assert True in before
    assert False in before
    # What stands on paper is what is laid out when the page's own listener has run.
    browser.execute_script("""
        window.printed = [];
        addEventListener("beforeprint", () => {
            const seen = (each) => each.checkVisibility() && each.offsetHeight > 0;
            window.printed = [...document.querySelectorAll("details p, details td")].map((each) => seen(each));
            window.protocols = [...document.querySelectorAll("#evaluation details p")].map((each) => each.innerText);
        });""")
    browser.execute_cdp_cmd("Page.printToPDF", {})
    assert set(browser.execute_script("return window.printed")) == {True}
    protocols = browser.execute_script("return window.protocols")
    assert [each.partition(": ")[2] for each in protocols] == ["k-NN: cosine.", "Probe: a layer."] * 2
    wait_for(lambda: browser.execute_script(folded) == before)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.execute_script("return getComputedStyle(document.querySelector('details')).display") == "block"
