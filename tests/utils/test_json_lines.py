import pytest

from openlab.utils.json_lines import append_row, encode_row, keep_rows, read_rows


def test_rows_come_back_with_every_digit(tmp_path):
    file = tmp_path / 'log.jsonl'
    rows = [{'iter': 1, 'train/loss': 0.1 + 0.2}, {'iter': 2, 'val/acc': 1 / 3}]
    with file.open('w') as stream:
        for row in rows:
            append_row(stream, row)
        assert list(read_rows(file)) == rows  # already there before the file is closed


def test_a_half_written_last_line_is_dropped(tmp_path):
    file = tmp_path / 'log.jsonl'
    file.write_text(encode_row({'iter': 1}) + '{"iter": 2, "tr')
    assert [r['iter'] for r in read_rows(file)] == [1]
    keep_rows(file, lambda row: True)
    assert file.read_text() == encode_row({'iter': 1})


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    file = tmp_path / 'log.jsonl'
    file.write_text('{"iter": 1}\nhello\n{"iter": 3}\n')
    with pytest.raises(ValueError, match=r'log\.jsonl, line 2: .*hello'):
        list(read_rows(file))


def test_a_character_cut_in_half_by_a_kill_does_no_harm(tmp_path):
    file = tmp_path / 'log.jsonl'
    file.write_bytes(encode_row({'iter': 1}).encode() + '{"text": "ö'.encode()[:-1])
    assert [r['iter'] for r in read_rows(file)] == [1]


def test_unwanted_rows_go_and_are_counted(tmp_path):
    file = tmp_path / 'log.jsonl'
    file.write_text(''.join(encode_row({'iter': i}) for i in range(5)))
    assert keep_rows(file, lambda row: row['iter'] <= 2) == 2
    assert [r['iter'] for r in read_rows(file)] == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ['log.jsonl']


def test_not_a_number_survives_a_round_trip(tmp_path):
    file = tmp_path / 'log.jsonl'
    file.write_text(encode_row({'loss': float('nan')}) + encode_row({'loss': float('inf')}))
    first, second = read_rows(file)
    assert first['loss'] != first['loss']
    assert second['loss'] == float('inf')
