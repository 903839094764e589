"""A plain publisher: it knows NATS, and nothing of parrot-mq. It waits for the results and prints them."""

import asyncio
import json
import os

import nats

TICKETS = [
    {"id": "T-1", "limit": 1000, "text": "customer: Berta\nproduct: printer\nloss: 5642\ncountry: Norway"},
    {"id": "T-2", "limit": 1000, "text": "customer: Carlo\nproduct: scanner\nloss: 230\ncountry: Italy"},
    {"id": "T-3", "limit": 1000, "text": "customer: Dunja\nproduct: monitor\nloss: 4806\ncountry: Croatia"},
    {"id": "T-4", "limit": 7000, "text": "customer: Emil\nproduct: keyboard\nloss: 3718\ncountry: Austria"},
]


async def main() -> dict[str, dict[str, object]]:
    """Publish the tickets, and return what came of each."""
    connection = await nats.connect(os.environ.get("PARROT_MQ_SERVERS", "nats://127.0.0.1:4222"))
    stream = connection.jetstream()
    await stream.add_stream(name="TICKETS", subjects=["tickets.new"])
    await stream.add_stream(name="TRIAGED", subjects=["tickets.triaged"])
    results = await stream.subscribe("tickets.triaged")
    for ticket in TICKETS:
        await stream.publish("tickets.new", json.dumps(ticket).encode())
    triaged: dict[str, dict[str, object]] = {}
    while len(triaged) < len(TICKETS):
        message = await results.next_msg(timeout=60)
        triaged[(message.headers or {})["ce-id"]] = json.loads(message.data)
    await connection.close()
    return triaged


if __name__ == "__main__":
    for ticket_id, result in sorted(asyncio.run(main()).items()):
        print(f"{ticket_id}: {result['team']}, loss {result['loss']}{', urgent' if result['urgent'] else ''}")
