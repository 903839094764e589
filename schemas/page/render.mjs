// Render an AsyncAPI document as one page, with AsyncAPI's own component: node render.mjs asyncapi.json page.html
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { Parser, fromFile, stringify } from "@asyncapi/parser";

const require = createRequire(import.meta.url);
const { createElement } = require("react");
const { renderToString } = require("react-dom/server");
const AsyncApi = require("@asyncapi/react-component").default;
const read = (name) => readFileSync(require.resolve(`@asyncapi/react-component/${name}`), "utf8");

const [source, target] = process.argv.slice(2);
const { document, diagnostics } = await fromFile(new Parser(), source).parse();
if (!document) throw new Error(`${source}: ${diagnostics.map(({ message }) => message).join("; ")}`);

const config = {
  show: { sidebar: true, errors: false },
  sidebar: { showOperations: "byOperationsTags" }, // by who does it
  expand: { messageExamples: true },
};
const body = renderToString(createElement(AsyncApi, { schema: document, config })); // to be read without scripts, too
const inScript = (text) => text.replaceAll("</script", "<\\/script");
const given = inScript(JSON.stringify({ schema: stringify(document), config }));
const page = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>${document.info().title()}</title>
<style>${read("styles/default.min.css")}</style>
</head>
<body>
<div id="page">${body}</div>
<script>${inScript(read("browser/standalone/index.js"))}</script>
<script>AsyncApiStandalone.hydrate(${given}, document.getElementById("page"));</script>
</body>
</html>
`;
writeFileSync(target, page);
console.log(JSON.stringify({ written: target }));
