"""Synchronous steps of several shards, in any order of events: shards that are lost, replicas that die, join and leave."""

from __future__ import annotations

import random
import threading
from concurrent.futures import Future

import numpy as np
import pytest

from ps.layout import Layout
from ps.rules import SGD
from ps.shard import ROUND
from ps.transport.sharded import ShardedLink

from ..building import private_state

SHARDS, REPLICAS, MOST_TURNS = 3, 4, 20_000


class Ended(Exception):
    """The replica is killed, or has done what it was to do."""


class Stage:
    """Threads of which one runs at a time, and random events between their turns: the same seed gives the same course."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.fresh()
        self.members: set[int] = set()
        self.players: dict[int, Player] = {}
        self.events: list = []  # of each cause, what is still to happen, in order
        self.turns = 0

    def fresh(self):
        """Shards of zeros, and what they were like after each of their steps."""
        self.layout = Layout.of({"w": np.zeros(2 * SHARDS)})
        self.generations = [1] * SHARDS
        self.shards = [self.build(index) for index in range(SHARDS)]
        self.history = [[self.picture(index)] for index in range(SHARDS)]

    def build(self, index):
        made = private_state({"w": np.zeros(2 * SHARDS)}, SGD(lr=1.0), SHARDS, replicas=REPLICAS, rounds=True)
        return made.shards[index]

    def picture(self, index):
        shard = self.shards[index]
        return shard.center.copy(), shard.header.copy(), shard.watermarks.copy()

    def lose(self, index):
        """A shard begins anew as it was some time before; those who are there join it."""
        self.shards[index], picture = self.build(index), self.random.choice(self.history[index][-12:])
        for mine, kept in zip(
            (self.shards[index].center, self.shards[index].header, self.shards[index].watermarks), picture
        ):
            mine[...] = kept
        self.history[index] = [picture]
        for replica in self.members:
            self.shards[index].join(replica)
        self.generations[index] += 1

    def enter(self, replica):
        """What a coordinator does for a replica that is to work: one shard after the other, and then it begins."""
        incarnation = self.players[replica].incarnation + 1 if replica in self.players else 1

        def join(index):
            self.members.add(replica)
            self.shards[index].join(replica)

        self.events.append(
            [
                *(lambda index=index: join(index) for index in range(SHARDS)),
                lambda: self.players.update({replica: Player(self, replica, incarnation)}),
            ]
        )

    def kill(self, replica):
        """It ends where it is; then it is taken out of one shard after the other, and another is started."""
        player = self.players[replica]
        player.stop()

        def leave(index):
            self.members.discard(replica)
            self.shards[index].leave(replica)

        self.events.append(
            [*(lambda index=index: leave(index) for index in range(SHARDS)), lambda: self.enter(replica)]
        )

    @property
    def living(self):
        return [player for player in self.players.values() if player.lives]

    def turn(self):
        """One replica goes on to its next word with a shard, or one thing happens."""
        self.turns += 1
        assert self.turns < MOST_TURNS, "they wait for each other"
        choices = self.living + self.events
        chosen = self.random.choice(choices)
        if isinstance(chosen, Player):
            chosen.go()
            return
        chosen.pop(0)()
        if not chosen:
            self.events.remove(chosen)

    def settle(self, steps):
        """Without further events everybody makes so many steps."""
        while self.events:
            self.turn()
        goals = {player: player.steps + steps for player in self.living}
        while any(player.steps < goal for player, goal in goals.items()):
            self.turn()


class Port:
    """A shard that travels: each word with it is a turn."""

    remote = True

    def __init__(self, stage, index, player):
        self.stage, self.index, self.player = stage, index, player
        self.range = stage.layout.shards(SHARDS)[index]

    @property
    def shard(self):
        return self.stage.shards[self.index]

    @property
    def generation(self):
        return self.stage.generations[self.index]

    @property
    def version(self):
        return self.shard.version

    @property
    def rounds(self):
        return self.shard.rounds

    def start_contribute(self, payload, stamp, **facts):
        """It may arrive and its answer be lost: then it is sent again."""
        future = Future()
        while True:
            self.player.pause()
            answer = self.shard.contribute(payload, stamp, **facts)
            self.stage.history[self.index].append(self.stage.picture(self.index))
            if self.stage.random.random() < 0.9:
                future.set_result(answer)
                return future

    def await_round(self, number, abandoned):
        while self.rounds < number:
            self.player.pause()
            abandoned()


class Player:
    """A replica in a thread of its own that takes one synchronous step after the other."""

    def __init__(self, stage, replica, incarnation):
        self.replica, self.incarnation, self.steps, self.lives = replica, incarnation, 0, True
        self._mine, self._theirs = threading.Semaphore(0), threading.Semaphore(0)
        self.error = None
        ports = [Port(stage, index, self) for index in range(SHARDS)]
        self._link = ShardedLink(stage.layout, ports, replica, incarnation, abandoned=lambda: None)
        self._gradient = np.full(2 * SHARDS, 10.0**replica)
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._thread.start()

    def _play(self):
        self._mine.acquire()
        try:
            while True:
                self._check()
                self._link.push_together(self._gradient, self._link.versions())
                self.steps += 1
        except Ended:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self._theirs.release()

    def _check(self):
        if not self.lives:
            raise Ended

    def pause(self):
        self._theirs.release()
        self._mine.acquire()
        self._check()

    def go(self):
        self._mine.release()
        self._theirs.acquire()
        if self.error is not None:
            raise self.error

    def stop(self):
        self.lives = False
        self.go()
        self._thread.join()


@pytest.mark.parametrize("first", range(0, 100, 50))
def test_whatever_is_lost_everybody_goes_on_and_soon_in_step(first):
    for seed in range(first, first + 50):
        stage = Stage(seed)
        for replica in range(REPLICAS):
            stage.enter(replica)
        while stage.events:
            stage.turn()
        for _ in range(12):
            for _ in range(stage.random.randrange(60)):
                stage.turn()
            if stage.random.random() < 0.6 or not stage.living:
                stage.lose(stage.random.randrange(SHARDS))
            else:
                stage.kill(stage.random.choice(stage.living).replica)
        stage.turns = 0
        try:
            stage.settle(6)
            in_step(stage)
        finally:
            for player in stage.living:
                player.stop()


def in_step(stage):
    """The last steps were everybody's, at every shard."""
    mean = np.mean([10.0**replica for replica in range(REPLICAS)])
    for history in stage.history:
        centers = {int(header[ROUND]): center for center, header, _ in history}
        newest = max(centers)
        last = [centers[number] for number in range(newest - 3, newest + 1)]
        np.testing.assert_allclose(np.diff(last, axis=0), -mean)
    made = [shard.rounds for shard in stage.shards]
    assert max(made) - min(made) <= 1
