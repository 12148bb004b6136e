"""The page in a browser: headless Chromium (Debian: apt-get install chromium chromium-driver)."""

import shutil
import time

import numpy as np
import pytest
import torch

from openlab.metrics.item_errors import find_errors
from openlab.structures.data_sample import DataSample
from openlab.visualization.report import ReportOptions, ReportPage, report_item, write_report

FLAGS = ('--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
         '--disable-background-networking', '--disable-component-update', '--disable-sync',
         '--disable-dev-shm-usage', '--window-size=1300,900')
HOSTILE = '<img src=x onerror="document.title=1">.jpg'
CLASSES = ['cat', 'dog', '<b>cow</b>']


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    programs = shutil.which('chromium'), shutil.which('chromedriver')
    webdriver = None
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        pass
    if webdriver is None or not all(programs):
        pytest.skip('SKIPPED LOUDLY: the page of predictions is not tested; pip install selenium '
                    'and apt-get install chromium chromium-driver')
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in (*FLAGS, f'--user-data-dir={tmp_path_factory.mktemp("profile")}'):
        options.add_argument(flag)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    driver = webdriver.Chrome(options=options, service=Service(programs[1]))
    yield driver
    driver.quit()


def boxes(*rows, labels, scores=None):
    return DataSample(boxes=torch.tensor(rows, dtype=torch.float).reshape(-1, 4),
                      labels=torch.tensor(labels, dtype=torch.int64),
                      scores=None if scores is None else torch.tensor(scores))


ONE, TWO, AWAY = [10, 10, 60, 60], [80, 10, 130, 60], [150, 70, 190, 95]
TRUTH = boxes(ONE, TWO, labels=[0, 1])
RIGHT = boxes(ONE, TWO, labels=[0, 1], scores=[0.9, 0.8])
# By kinds: wrong class on ONE; TWO missed below a threshold of 0.55; background of class 2.
CASES = {
    'class.jpg': (boxes(ONE, TWO, labels=[1, 1], scores=[0.95, 0.8]), TRUTH),
    HOSTILE: (boxes(ONE, TWO, AWAY, AWAY, labels=[0, 1, 2, 0], scores=[0.9, 0.8, 0.7, 0.6]),
              TRUTH),
    'unsure.jpg': (boxes(ONE, TWO, labels=[0, 1], scores=[0.9, 0.5]), TRUTH),
    **{f'right{i:02d}.jpg': (RIGHT, TRUTH) for i in range(27)},
}


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    image = np.full((100, 200, 3), 120, np.uint8)
    items = [report_item(image, p, t, find_errors(p, t), name, ReportOptions())
             for name, (p, t) in CASES.items()]
    items.sort(key=lambda i: -i.record['sev'])
    about = ReportPage('Animals & <others>', 'detection', CLASSES, '30 images', {'coco/AP': 0.5})
    return write_report(tmp_path_factory.mktemp('page') / 'report.html', items, about)


class Page:
    """The open page, in the words of someone who uses it."""

    def __init__(self, browser, path):
        self.browser = browser
        browser.get(path.as_uri())

    def all(self, selector):
        return self.browser.find_elements('css selector', selector)

    def one(self, selector):
        return self.browser.find_element('css selector', selector)

    def click(self, selector):
        self.one(selector).click()

    def js(self, text, *arguments):
        return self.browser.execute_script(f'return {text}', *arguments)

    def names(self):
        return [e.text for e in self.all('.card .title b')]

    def count(self, kind):
        return self.one(f'#kinds input[value="{kind}"]').find_element(
            'xpath', '..').find_element('css selector', '.count').text

    def status(self):
        return self.one('#status').text

    def set_range(self, selector, value):
        self.browser.execute_script(
            'arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event("input"))',
            self.one(selector), value)

    def choose(self, selector, value):
        from selenium.webdriver.support.ui import Select

        Select(self.one(selector)).select_by_value(value)

    def wait(self, condition, seconds=10):
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, 'waited in vain'
            time.sleep(0.02)
        return found

    def drawn(self):
        """Wait for the pictures of the first card."""
        return self.wait(lambda: self.all('.card[data-drawn] svg'))


@pytest.fixture
def opened(browser, page):
    yield Page(browser, page)
    assert browser.get_log('browser') == []


def test_the_worst_stand_first_with_counts_a_legend_and_metrics(opened):
    assert opened.browser.title == 'Animals & <others>'
    assert opened.names()[:2] == [HOSTILE, 'class.jpg']
    assert len(opened.names()) == 24
    assert (opened.status(), opened.one('#page').text) == ('30 images', '1 of 2')
    counts = {k: opened.count(k) for k in ('class', 'background', 'missed', 'location', 'right')}
    assert counts == {'class': '1', 'background': '2', 'missed': '0', 'location': '0',
                      'right': '28'}
    assert [e.text for e in opened.all('#classes .name')] == CLASSES
    assert opened.one('.metric').text.split() == ['0.5000', 'AP']
    chips = [e.text for e in opened.all('.card:first-child .chip')]
    assert chips == ['2 Background']


def test_filters_by_kind_and_class_choose_images_and_objects(opened):
    opened.click('#kinds input[value="background"]')
    assert opened.names() == [HOSTILE]
    assert opened.status() == '1 of 30 images'
    opened.drawn()
    kinds = {r.get_attribute('data-kind'): r.get_attribute('class')
             for r in opened.all('.card rect.prediction')}
    assert kinds == {'right': 'prediction faint', 'background': 'prediction'}
    opened.click('#classes input[value="1"]')  # no background error is a dog
    assert opened.names() == []
    assert opened.one('#empty').is_displayed()
    assert opened.count('class') == '1'  # counts are of what another choice would give
    opened.click('#reset')
    assert opened.status() == '30 images'
    assert not [e for e in opened.all('.facet input') if e.is_selected()]
    opened.click('#kinds input[value="right"]')
    assert opened.status() == '28 of 30 images'


def test_the_threshold_hides_objects_and_finds_anew_what_is_missed(opened):
    opened.set_range('#threshold', 0.55)
    opened.wait(lambda: opened.count('missed') == '1')
    assert opened.names()[:3] == [HOSTILE, 'class.jpg', 'unsure.jpg']
    opened.set_range('#threshold', 0.65)
    opened.wait(lambda: opened.count('background') == '1')
    opened.click('#kinds input[value="missed"]')
    assert opened.names() == ['unsure.jpg']
    opened.drawn()
    assert len(opened.all('rect.prediction')) == 1
    assert [e.text for e in opened.all('.label.truth')] == ['dogmissed']


def test_pages_sort_and_search(opened):
    opened.click('#next-page')
    assert len(opened.names()) == 6
    assert not opened.one('#next-page').is_enabled()
    opened.click('#previous-page')
    opened.choose('#page-size', '12')
    assert (len(opened.names()), opened.one('#page').text) == (12, '1 of 3')
    opened.choose('#sort', 'name')
    assert opened.names()[:3] == [HOSTILE, 'class.jpg', 'right00.jpg']
    opened.choose('#sort', 'high')
    assert opened.names()[0].startswith(('right', 'unsure'))
    opened.one('#search').send_keys('RIGHT1')
    opened.wait(lambda: opened.status() == '10 of 30 images')
    assert opened.count('right') == '10'


def test_layers_are_shown_and_hidden(opened):
    opened.drawn()
    first = '.card:first-child '
    assert len(opened.all(first + '.panel')) == 2
    assert [len(opened.all(first + s)) for s in ('rect.truth', 'rect.prediction')] == [2, 4]
    assert 'background' in opened.one(first + '.label.prediction i').text
    for key, selector in (('boxes', 'rect'), ('kinds', '.label i'), ('labels', '.label')):
        assert opened.all(first + selector)
        opened.click(f'#layers input[value="{key}"]')
        opened.drawn()
        assert not opened.all(first + selector)
    opened.click('#layers input[value="truth"]')
    assert len(opened.all(first + '.panel')) == 1
    for key in ('boxes', 'truth'):
        opened.click(f'#layers input[value="{key}"]')
    opened.choose('#layout', 'over')
    opened.drawn()
    assert len(opened.all(first + '.panel')) == 1
    assert len(opened.all(first + 'rect.truth.over')) == 2


def test_the_viewer_zooms_moves_and_tells_of_each_object(opened):
    from selenium.webdriver.common.keys import Keys

    opened.click('.card:first-child .open')
    assert opened.one('#viewer-title').text == HOSTILE
    stage = '#viewer-panels .stage'
    width = opened.js('arguments[0].clientWidth', opened.one(stage))
    opened.click('#zoom-in')
    opened.click('#zoom-in')
    assert opened.one('#zoom-value').text == '225%'
    assert opened.js('arguments[0].clientWidth', opened.one(stage)) == pytest.approx(
        2.25 * width, abs=2)
    before = opened.one(stage).get_attribute('style')
    viewer = opened.one('#viewer')
    opened.browser.switch_to.active_element.send_keys(Keys.SHIFT, Keys.ARROW_LEFT, Keys.SHIFT)
    assert opened.one(stage).get_attribute('style') != before
    transforms = {e.get_attribute('style').split('transform')[1] for e in opened.all(stage)}
    assert len(transforms) == 1  # both panels move together
    opened.click('#zoom-fit')
    assert opened.one('#zoom-value').text == '100%'

    rows = [[cell.text for cell in row.find_elements('css selector', 'td')]
            for row in opened.all('#details table:nth-of-type(1) tbody tr')]
    assert rows[0] == ['cat', '0.90', 'Right', '1.00', '50×50']
    assert rows[2] == ['<b>cow</b>', '0.70', 'Background', '0.00', '40×25']
    third = opened.all('#details tbody tr')[2]
    opened.browser.execute_script('arguments[0].focus()', third)
    assert len(opened.all('rect.focus')) == 2
    third.send_keys(Keys.ENTER)
    assert opened.one('#zoom-value').text == '200%'  # 40 of 100 pixels high: half the picture

    opened.browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert opened.one('#viewer-title').text == 'class.jpg'
    assert opened.one('#zoom-value').text == '100%'
    opened.browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not viewer.is_displayed()


def test_the_mouse_wheel_zooms_where_it_points_and_dragging_moves(opened):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    opened.click('.card:first-child .open')
    panel = opened.one('#viewer-panels .panel')
    origin = ScrollOrigin.from_element(panel, -60, 0)
    ActionChains(opened.browser).scroll_from_origin(origin, 0, -600).perform()
    opened.wait(lambda: opened.one('#zoom-value').text != '100%')
    left = opened.js('arguments[0].getBoundingClientRect().left', opened.one('.viewer-panels img'))
    ActionChains(opened.browser).click_and_hold(panel).move_by_offset(25, 0).release().perform()
    moved = opened.js('arguments[0].getBoundingClientRect().left', opened.one('.viewer-panels img'))
    assert moved - left == pytest.approx(25, abs=2)


def test_light_and_dark_can_be_switched_and_names_stay_text(opened):
    def background():
        return opened.js('getComputedStyle(document.body).backgroundColor')

    before = background()
    opened.click('#theme')
    assert background() != before
    opened.drawn()
    assert not opened.all('b > b, .name b, img[src="x"]')
    unlabelled = opened.js('''[...document.querySelectorAll('input, select, button')].filter(
        e => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length))
        .map(e => e.outerHTML)''')
    assert unlabelled == []


def test_masks_and_wrong_pixels_are_painted(browser, tmp_path):
    truth, guess = torch.zeros(100, 200).long(), torch.zeros(100, 200).long()
    truth[20:60, 20:60] = 1
    guess[20:60, 20:60] = 2
    pair = DataSample(semantic_map=guess), DataSample(semantic_map=truth)
    image = np.full((100, 200, 3), 120, np.uint8)
    item = report_item(image, *pair, find_errors(*pair), 'a.jpg')
    page = ReportPage('Maps', 'semantic', ['ground', 'cat', 'dog'])
    opened = Page(browser, write_report(tmp_path / 'r.html', [item], page))
    opened.drawn()
    at = 'arguments[0].getContext("2d").getImageData(arguments[1], arguments[2], 1, 1).data'
    canvases = opened.all('.card canvas')
    inside = [opened.js(f'[...{at}]', c, 40, 40) for c in canvases]
    # Colours come back from a half transparent canvas with a rounding error.
    for value, wanted in zip(inside, [(250, 130, 20), (40, 167, 69), (209, 36, 47)]):
        assert value[:3] == pytest.approx(wanted, abs=2)
    assert [v[3] for v in inside] == pytest.approx([0.45 * 255, 0.45 * 255, 255], abs=1)
    assert opened.js(f'[...{at}]', canvases[2], 100, 80) == [0, 0, 0, 0]
    assert [e.text for e in opened.all('.chip')] == ['8.0% Confused']  # 1600 of 20000 pixels
    opened.click('#layers input[value="masks"]')
    opened.drawn()
    assert opened.js(f'[...{at}]', opened.all('.card canvas')[2], 40, 40)[3] == 255
    opened.click('#kinds input[value="confused"]')
    opened.click('.card .open')
    first = opened.one('#details tbody tr').text.split()
    assert first == ['Confused', 'cat', 'dog', '8.00%']
    assert browser.get_log('browser') == []
