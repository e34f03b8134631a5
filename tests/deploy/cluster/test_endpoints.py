"""Where shards are served, as told to a process that may wait for it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from deploy.cluster.endpoints import Endpoints, from_json, to_json
from ps.host import Place
from ps.transport.following import Whereabouts

FIRST = Whereabouts(0, "n1", "10.0.0.4:41873", 1, Place("hogshead-1", "hogshead-2", 7, "99"))
SECOND = replace(FIRST, node="n2", generation=2)


def told(*places):
    return [to_json(place) for place in places]


def test_places_survive_json():
    assert from_json(json.loads(json.dumps(to_json(FIRST)))) == FIRST


def test_older_news_change_nothing():
    endpoints = Endpoints()
    endpoints.update(told(SECOND))
    endpoints.update(told(FIRST, replace(FIRST, index=1)))
    assert endpoints.current(0) == SECOND and endpoints.current(1).index == 1
    assert endpoints.newer(0, 1) == SECOND


def test_waiting_ends_with_the_news():
    asked = []
    endpoints = Endpoints(lambda: asked.append(1))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(endpoints.newer, 0, 1)
        endpoints.update(told(FIRST))
        while not asked:  # it has looked in vain
            assert not waiting.done()
        endpoints.update(told(SECOND))
        assert waiting.result() == SECOND


def test_waiting_can_be_given_up():
    class Ended(Exception):
        pass

    def ended():
        raise Ended

    endpoints = Endpoints()
    endpoints.stopped = ended
    with pytest.raises(Ended):
        endpoints.newer(0, 0)
    endpoints.update(told(FIRST))
    assert endpoints.newer(0, 0) == FIRST
