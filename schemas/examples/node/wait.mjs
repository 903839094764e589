// Wait for a variable, whoever sets it and whenever: subscribe, then read, and read again after every reconnect.
import { connect } from "@nats-io/transport-node";

const session = process.argv[2] ?? "demo";
const nc = await connect({
  servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222",
  maxReconnectAttempts: -1,
  reconnectTimeWait: 250,
});

async function wait(variable) {
  let found;
  const value = new Promise((resolve) => (found = resolve));
  const listener = nc.subscribe(`pmq.default.set.${session}.${variable}`, {
    callback: (error, message) => error ?? found(message),
  });
  const read = async () => {
    const stored = `$JS.API.DIRECT.GET.PMQ_VARS.pmq.default.var.${session}.${variable}`;
    const message = await nc.request(stored, "", { timeout: 5000 }).catch(() => undefined); // away: read again later
    if (message && message.headers?.code !== 404) found(message);
  };
  await nc.flush(); // the server knows of the subscription: what is set from now on is heard, or was there before
  await read();
  console.log(JSON.stringify({ waiting: variable }));

  const again = setInterval(read, 5000); // on a cluster, a replica that is behind may have said 404
  const status = nc.status();
  (async () => {
    for await (const { type } of status) if (type === "reconnect") await read();
  })();
  const message = await value;
  clearInterval(again);
  listener.unsubscribe();
  return message.string();
}

console.log(JSON.stringify({ answer: await wait("answer") }));
await nc.close();
