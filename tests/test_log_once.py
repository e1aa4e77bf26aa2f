import logging

from dvis_d2 import log_once


def test_a_place_in_the_code_speaks_once(caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            log_once.warn_once("here")
        log_once.warn_once("there")
    told = [(record.name, record.getMessage()) for record in caplog.records]
    assert told == [(__name__, "here"), (__name__, "there")]
