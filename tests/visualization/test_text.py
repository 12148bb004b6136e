import numpy as np

from openlab.visualization.text import Pen, contrast, shorten, text_width, wrap


def test_a_long_text_is_cut_to_the_width_with_an_ellipsis():
    short = shorten('a rather long name of a class', 80, 14)
    assert short.endswith('…')
    assert text_width(short, 14) <= 80
    assert shorten('cat', 80, 14) == 'cat'


def test_lines_break_between_words_and_fit():
    lines = wrap('one two three four five', 70, 14)
    assert ' '.join(lines) == 'one two three four five'
    assert len(lines) > 1
    assert all(text_width(line, 14) <= 70 for line in lines)


def test_a_pen_leaves_the_given_image_alone_and_writes_on_its_own():
    image = np.full((30, 60, 3), 255, np.uint8)
    pen = Pen(image)
    pen.write('abc', 2, 2, 14)
    assert (image == 255).all()
    assert pen.result().min() < 80


def test_text_is_dark_on_light_and_light_on_dark():
    assert sum(contrast((250, 240, 90))) < sum(contrast((20, 20, 90)))
