// Does what it is told, one JSON object on each line, with a client that is not ours: node agent.mjs tcp|websocket|mqtt
//
// {"id": 1, "do": "publish" | "request" | "subscribe", "subject": …, "headers": …, "text" | "json" | "msgpack" | "base64": …}
// is answered with {"id": 1, …}; what a subscription hears is a line {"heard": …}. Where the client can do it "publish"
// names where an answer goes ("reply"), and "subscribe" a group that shares what comes ("queue").
import { createInterface } from "node:readline";
import { decode as unpack, encode as pack } from "@msgpack/msgpack";

const kind = process.argv[2];
const url = process.env.SERVER_URL;
const print = (line) => console.log(JSON.stringify(line));

function payloadOf(order) {
  if ("json" in order) return new TextEncoder().encode(JSON.stringify(order.json));
  if ("msgpack" in order) return pack(order.msgpack);
  if ("base64" in order) return Buffer.from(order.base64, "base64");
  return new TextEncoder().encode(order.text ?? "");
}

function heard(subject, data, headers = {}, reply = "") {
  const bytes = Buffer.from(data);
  const line = { subject, headers, reply, base64: bytes.toString("base64"), text: bytes.toString("utf8") };
  try {
    line.json = JSON.parse(line.text);
  } catch {
    try {
      line.msgpack = unpack(bytes);
    } catch {
      // a text
    }
  }
  return line;
}

async function overNats(connect, headersOf, options) {
  const nc = await connect({ servers: url, maxReconnectAttempts: -1, reconnectTimeWait: 100, ...options });
  (async () => {
    for await (const { type, error } of nc.status()) {
      if (type === "reconnect" || type === "error") print({ status: type, reason: error?.message });
    }
  })();
  const read = (message) => {
    const fields = Object.fromEntries((message.headers?.keys() ?? []).map((name) => [name, message.headers.get(name)]));
    if (message.headers?.code) fields.status = String(message.headers.code);
    return heard(message.subject, message.data, fields, message.reply);
  };
  const write = (order) => {
    const head = headersOf();
    for (const [name, value] of Object.entries(order.headers ?? {})) head.set(name, value);
    return { ...(order.headers ? { headers: head } : {}), ...(order.reply ? { reply: order.reply } : {}) };
  };
  return {
    async publish(order) {
      nc.publish(order.subject, payloadOf(order), write(order));
      await nc.flush();
    },
    async request(order) {
      return read(await nc.request(order.subject, payloadOf(order), { timeout: order.timeout_ms ?? 10_000, ...write(order) }));
    },
    async subscribe(order) {
      const callback = (error, message) => error ?? print({ heard: read(message) });
      nc.subscribe(order.subject, { callback, queue: order.queue });
      await nc.flush();
    },
  };
}

async function overMqtt(options) {
  const { connectAsync } = await import("mqtt");
  const client = await connectAsync(url, { protocolVersion: 4, ...options });
  const topicOf = (subject) => subject.replaceAll(".", "/").replaceAll("*", "+").replaceAll(">", "#");
  client.on("message", (topic, data) => print({ heard: heard(topic.replaceAll("/", "."), data) }));
  return {
    publish: (order) => client.publishAsync(topicOf(order.subject), Buffer.from(payloadOf(order)), { qos: 1 }),
    // QoS 0: to subscriptions with QoS 1 the server does not give what it republishes of a message with QoS 1
    subscribe: (order) => client.subscribeAsync(topicOf(order.subject), { qos: 0 }),
  };
}

async function open() {
  const { CLIENT_USER: user, CLIENT_PASSWORD: password, INBOX_PREFIX: inboxPrefix } = process.env;
  if (kind === "mqtt") return overMqtt(user ? { username: user, password } : {});
  const options = user ? { user, pass: password, inboxPrefix } : {};
  if (kind === "websocket") {
    globalThis.WebSocket ??= (await import("ws")).WebSocket; // Node has one of its own from version 22 on
    const { headers, wsconnect } = await import("@nats-io/nats-core");
    return overNats(wsconnect, headers, options);
  }
  const { connect, headers } = await import("@nats-io/transport-node");
  return overNats(connect, headers, options);
}

const client = await open();
print({ ready: true });
for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  try {
    const answer = await client[order.do](order);
    print({ id: order.id, answer: order.do === "request" ? answer : null });
  } catch (error) {
    print({ id: order.id, error: String(error.message ?? error) });
  }
}
process.exit(0);
