"""The hub: the newest of each name, for every client, within its limit."""

from __future__ import annotations

import asyncio

from dashboards.hub import Event, Hub


async def take(hub: Hub, count: int) -> list[Event]:
    found: list[Event] = []
    async for event in hub.events():
        found.append(event)
        if len(found) == count:
            break
    return found


async def test_a_new_client_gets_the_newest_of_every_name_first() -> None:
    hub = Hub()
    for name, data in (("tiles", "1"), ("status", "2"), ("tiles", "3")):
        await hub.publish(name, data)
    assert [(event.name, event.data) for event in await take(hub, 2)] == [
        ("status", "2"),
        ("tiles", "3"),
    ]


async def test_a_slow_client_skips_but_ends_with_the_newest() -> None:
    hub = Hub()
    await hub.publish("tiles", "0")
    events = hub.events()
    assert (await anext(events)).data == "0"
    for number in range(1, 1_001):
        await hub.publish("tiles", str(number))
    newest = await anext(events)
    assert newest.data == "1000"
    assert newest.id == 1_001


async def test_equal_data_is_not_sent_again_when_only_changes_are_wanted() -> None:
    hub = Hub()
    await hub.publish("marks", "[]", only_changed=True)
    await hub.publish("marks", "[]", only_changed=True)
    held = hub.latest("marks")
    assert held is not None
    assert held.id == 1


async def test_clients_are_bounded_and_leave_room() -> None:
    hub = Hub(clients_max=2)
    assert [hub.enter(), hub.enter(), hub.enter()] == [True, True, False]
    hub.leave()
    assert hub.enter()
    assert hub.clients == 2


async def test_closing_ends_waiting_clients_and_takes_no_more() -> None:
    hub = Hub()
    waiting = [asyncio.create_task(take(hub, 1)) for _ in range(3)]
    await asyncio.sleep(0)
    await hub.close()
    assert await asyncio.wait_for(asyncio.gather(*waiting), 2) == [[], [], []]
    assert not hub.enter()
