// Submit a task and hear its result over MQTT: "/" for ".", QoS 1 to publish, QoS 0 to subscribe.
import { connectAsync } from "mqtt";

const session = process.argv[2] ?? "demo";
const client = await connectAsync(process.env.MQTT_URL ?? "mqtt://127.0.0.1:1883", { protocolVersion: 4 });

const result = new Promise((resolve) => client.on("message", (topic, payload) => resolve(payload.toString())));
await client.subscribeAsync(`pmq/default/set/${session}/greeting`, { qos: 0 });

const task = {
  template: "Greet {{who}}:\n{{greeting}}",
  inputs: { who: { variable: "who" } },
  outputs: { greeting: { variable: "greeting" } },
};
await client.publishAsync(`pmq/default/task/${session}/greeting-1`, JSON.stringify(task), { qos: 1 });
await client.publishAsync(`pmq/default/var/${session}/who`, "the parrots", { qos: 1 });

console.log(JSON.stringify({ greeting: await result }));
await client.endAsync();
