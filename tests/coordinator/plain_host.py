"""A host of native functions that knows nothing of this project: nats-py, and what is written of the wire.

python plain_host.py URL TENANT NAME

`echo` answers with its argument, `hold` says for ever that it runs. It tells what it does in lines on its output.
"""

from __future__ import annotations

import asyncio
import json
import sys

import nats
from nats.aio.msg import Msg

BEAT_S = 0.4


async def main(url: str, tenant: str, name: str) -> None:
    """Serve until the process is killed."""
    connection = await nats.connect(url)
    inbox = connection.new_inbox()

    async def on_call(message: Msg) -> None:
        call = json.loads(message.data)
        print(f"called {call['function']} {call.get('attempt', 1)}", flush=True)
        if call["function"] == "echo":
            await connection.publish(message.reply, f"{name}: {call['arguments']['text']}".encode())
            return
        asyncio.get_running_loop().create_task(hold(message.reply))

    async def hold(reply: str) -> None:
        while True:
            beat = json.dumps({"host": name, "beat_s": BEAT_S}).encode()
            await connection.publish(reply, beat, reply=inbox, headers={"Pmq-Status": "running"})
            await asyncio.sleep(BEAT_S)

    async def on_stop(message: Msg) -> None:
        print("stopped", flush=True)

    await connection.subscribe(inbox, cb=on_stop)
    for function in ("echo", "hold"):
        await connection.subscribe(f"pmq.{tenant}.call.*.{function}", queue="native", cb=on_call)
    await connection.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
