// Read an AsyncAPI document with the official parser; prints what it finds wrong, and what it understood.
import { Parser, fromFile } from "@asyncapi/parser";

const { document, diagnostics } = await fromFile(new Parser(), process.argv[2]).parse();
const problems = diagnostics
  .filter(({ severity }) => severity <= 1) // errors and warnings
  .map(({ code, message, path }) => ({ code, message, path: path.join(".") }));
const understood = document && {
  version: document.version(),
  channels: document.channels().all().map((channel) => channel.address() ?? ""),
  operations: document.operations().all().map((operation) => operation.id()),
  payloads: Object.fromEntries(
    document.allMessages().all().map((message) => [message.id(), message.payload()?.json()]),
  ),
};
console.log(JSON.stringify({ problems, understood }));
