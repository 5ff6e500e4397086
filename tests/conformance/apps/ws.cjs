// WebSocket on Node's ws: `ws.cjs NODE_MODULES serve PORT`, or `ws.cjs NODE_MODULES ask URL`, which prints what came of each scenario
// as a line of JSON, as ws.py does.
const crypto = require('node:crypto');
const http = require('node:http');
const [modules, role, where] = process.argv.slice(2);
const { WebSocket, WebSocketServer } = require(`${modules}/ws`);

function serve(port) {
  const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: true, handleProtocols: (offered) => offered.has('b') && 'b' });
  const server = http.createServer();
  server.on('upgrade', (request, socket, head) => {
    if (request.url === '/refuse') {
      socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n');
      return;
    }
    sockets.handleUpgrade(request, socket, head, (ws) => {
      ws.on('message', (data, binary) => (request.url === '/close' ? ws.close(4001, 'enough') : ws.send(data, { binary })));
    });
  });
  server.listen(port);
}

const hash = (data) => crypto.createHash('sha256').update(data).digest('hex');
const next = (ws, event) => new Promise((resolve, reject) => {
  ws.once(event, (...told) => resolve(told));
  ws.once('error', reject);
});

async function open(path, protocols) {
  const ws = new WebSocket(where + path, protocols);
  await next(ws, 'open');
  return ws;
}

async function echoed(ws, send) {
  const came = next(ws, 'message');
  send(ws);
  const [data, binary] = await came;
  return { binary, length: data.length, sha256: hash(data) };
}

const scenarios = {
  async text() {
    const ws = await open('/echo');
    const told = [];
    for (const text of ['', 'hello', '\u00fc\u20ac\u{1f600}']) told.push(await echoed(ws, () => ws.send(text)));
    ws.close(1000);
    return { told, code: (await next(ws, 'close'))[0] };
  },
  async binary() {
    const ws = await open('/echo');
    const told = await echoed(ws, () => ws.send(Buffer.from(Uint8Array.from({ length: 1000000 }, (_, i) => i % 251))));
    ws.close(1000);
    return told;
  },
  async fragments() {
    const ws = await open('/echo');
    const told = await echoed(ws, () => {
      for (const part of ['a', 'b']) ws.send(part.repeat(70000), { fin: false });
      ws.send('c');
    });
    ws.close(1000);
    return told;
  },
  async ping() {
    const ws = await open('/echo');
    const pong = next(ws, 'pong');
    ws.ping('are you there');
    const told = { pong: (await pong)[0].toString() };
    ws.close(1000);
    return told;
  },
  async 'sub-protocol'() {
    const ws = await open('/echo', ['a', 'b']);
    const told = { protocol: ws.protocol, extensions: ws.extensions };
    ws.close(1000);
    return told;
  },
  async closed() {
    const ws = await open('/close');
    const closed = next(ws, 'close');
    ws.send('go');
    const [code, reason] = await closed;
    return { code, reason: reason.toString() };
  },
  async refused() {
    const ws = new WebSocket(`${where}/refuse`);
    const [request, response] = await next(ws, 'unexpected-response');
    // Whether the connection serves on is the hop's own affair.
    request.destroy();
    return { status: response.statusCode };
  },
};

async function ask() {
  for (const [name, scenario] of Object.entries(scenarios)) {
    console.log(JSON.stringify({ name, ...(await scenario().catch((error) => ({ error: String(error) }))) }));
  }
}

if (role === 'serve') serve(Number(where));
else ask();
