// A client of the matrix on Node's undici: ask.cjs NODE_MODULES URL SCENARIOS prints what came of each, as a line of JSON.
const crypto = require('node:crypto');
const fs = require('node:fs');
const { Readable } = require('node:stream');
const [modules, url, scenarios] = process.argv.slice(2);
const { Client } = require(`${modules}/undici`);

function* pieces(body) {
  for (let start = 0; start < body.length; start += 65000) yield body.subarray(start, start + 65000);
}

async function ask(client, { name, method, path, headers, body: length, streamed }) {
  const bytes = length === undefined ? null : Buffer.from(Uint8Array.from({ length }, (_, i) => i % 251));
  try {
    const body = streamed ? Readable.from(pieces(bytes)) : bytes;
    const response = await client.request({ method, path, headers, body });
    const content = Buffer.from(await response.body.arrayBuffer());
    const fields = Object.entries(response.headers).map(([key, value]) => [key, [value].flat().join(', ')]);
    const told = { name, status: response.statusCode, headers: Object.fromEntries(fields), length: content.length };
    if (content.length < 4096) return { ...told, text: content.toString('latin1') };
    return { ...told, sha256: crypto.createHash('sha256').update(content).digest('hex') };
  } catch (error) {
    return { name, error: String(error) };
  }
}

async function main() {
  const client = new Client(url);
  for (const scenario of JSON.parse(fs.readFileSync(scenarios, 'utf8'))) {
    console.log(JSON.stringify(await ask(client, scenario)));
  }
  await client.close();
}

main();
