// The server of the matrix on Node's http and http2: answer.cjs PORT. HTTP/1.1, and HTTP/2 with prior knowledge, on one port; it
// answers as go/answer does.
const crypto = require('node:crypto');
const http = require('node:http');
const http2 = require('node:http2');
const net = require('node:net');

const unseen = new Set([
  'connection', 'keep-alive', 'transfer-encoding', 'traceparent', 'tracestate', 'x-forwarded-client-cert',
]);
const cookies = ['a=1; Path=/', 'b=2; Expires=Wed, 21 Oct 2099 07:28:00 GMT'];

const pattern = (length) => Buffer.from(Uint8Array.from({ length }, (_, i) => i % 251));

/** The fields that an application sees, by name; values of one name are joined. */
function fields(request) {
  const seen = {};
  const raw = request.rawHeaders;
  for (let i = 0; i < raw.length; i += 2) (seen[raw[i].toLowerCase()] ??= []).push(raw[i + 1]);
  const kept = Object.entries(seen).filter(([name]) => !unseen.has(name)).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(kept.map(([name, values]) => [name, values.join(', ')]));
}

function reply(request, response, status, body, headers) {
  const bodiless = status === 204 || status === 304;
  response.writeHead(status, bodiless ? headers : { ...headers, 'content-length': body.length });
  response.end(request.method === 'HEAD' || bodiless ? undefined : body);
}

function stream(response, number) {
  response.writeHead(200, { 'content-type': 'application/octet-stream' });
  for (let sent = 0; sent < number; sent += 1) response.write(pattern(1000));
  response.end();
}

async function answer(request, response) {
  let length = 0;
  const hash = crypto.createHash('sha256');
  for await (const piece of request) {
    length += piece.length;
    hash.update(piece);
  }
  const [, what, number] = request.url.split('?')[0].split('/');
  if (what === 'echo') {
    const told = { method: request.method, target: request.url, version: request.httpVersion, headers: fields(request), length };
    reply(request, response, 200, Buffer.from(JSON.stringify({ ...told, sha256: hash.digest('hex') })), { 'content-type': 'application/json' });
  } else if (what === 'bytes') {
    reply(request, response, 200, pattern(Number(number)), { 'content-type': 'application/octet-stream' });
  } else if (what === 'stream') {
    stream(response, Number(number));
  } else if (what === 'status') {
    const headers = { location: '/elsewhere', etag: '"1"', 'content-type': 'text/plain' };
    reply(request, response, Number(number), Buffer.from(`this is ${number}\n`), headers);
  } else if (what === 'fields') {
    const headers = { 'set-cookie': cookies, vary: ['accept', 'cookie'], 'x-empty': '', 'x-long': `${'long '.repeat(1000)}end` };
    reply(request, response, 200, Buffer.from('fields\n'), { ...headers, 'content-type': 'text/plain; charset=utf-8' });
  } else {
    reply(request, response, 404, Buffer.from('no such thing\n'), {});
  }
}

// A client that goes within its request is its own affair.
const serve = (request, response) => answer(request, response).catch(() => request.destroy());
const first = http.createServer(serve);
const second = http2.createServer(serve);
// No method begins as the preface of HTTP/2 does.
net.createServer({ noDelay: true }, (socket) => {
  socket.on('error', () => socket.destroy());
  socket.once('readable', () => {
    const bytes = socket.read();
    if (bytes === null) return socket.destroy();
    socket.unshift(bytes);
    return (bytes.toString('latin1').startsWith('PRI') ? second : first).emit('connection', socket);
  });
}).listen(Number(process.argv[2]), '::');
