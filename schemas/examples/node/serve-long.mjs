// Serve a function that takes long: beats say that it still runs, and it stops when nobody wants the result any more.
import { connect, createInbox, headers } from "@nats-io/transport-node";
import { setTimeout as sleep } from "node:timers/promises";

const nc = await connect({ servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222" });
const BEAT_S = 0.5; // three that stay away, and the call goes to somebody else
const MAX_RUNNING = 4;
let numRunning = 0;

function reply(message, status, document, options = {}) {
  const head = headers();
  head.set("Pmq-Status", status);
  message.respond(JSON.stringify(document), { headers: head, ...options });
}

async function think({ seconds }, signal) {
  await sleep(Number(seconds) * 1000, undefined, { signal });
  return `thought for ${seconds} s`;
}

async function serve(message) {
  if (numRunning >= MAX_RUNNING) {
    // asked again soon, perhaps somebody else; it does not count as an attempt
    return reply(message, "error", { code: "capacity_exhausted", message: "all places are taken", retryable: true });
  }
  numRunning += 1;
  const unwanted = new AbortController();
  const inbox = nc.subscribe(createInbox(), { callback: () => unwanted.abort() });
  const running = { host: "node", beat_s: BEAT_S };
  const beat = () => reply(message, "running", running, { reply: inbox.getSubject() });
  beat();
  const beats = setInterval(beat, BEAT_S * 1000);
  try {
    message.respond(await think(message.json().arguments, unwanted.signal));
  } catch (error) {
    if (unwanted.signal.aborted) console.log(JSON.stringify({ stopped: message.json().call }));
    else reply(message, "error", { code: "function_failed", message: error.message, retryable: true });
  } finally {
    clearInterval(beats);
    inbox.unsubscribe();
    numRunning -= 1;
  }
}

nc.subscribe("pmq.default.call.*.think", { queue: "native", callback: (error, message) => error ?? serve(message) });
await nc.flush();
console.log(JSON.stringify({ serving: "think" }));
