// A TCP front that lets ordinary PostgreSQL clients speak to the real TimescaleDB extension, which here runs inside
// PGlite: one PostgreSQL backend compiled to WebAssembly, without a network of its own.
// usage: node front.mjs PGLITE_PACKAGE_DIR PORT        prints `ready PORT` once it accepts connections
//
// Many clients share the one backend. A client holds it from the first message of a batch until the backend says
// ReadyForQuery "idle", so transactions never mix. What a session would own is kept apart where that is possible:
// statement and portal names carry the client's number, notifications go to the clients that asked for them.
// SET, temporary tables and advisory locks are shared by all clients, and there is one database.
import net from 'node:net'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const [home, port] = [process.argv[2], Number(process.argv[3])]
const load = (file) => import(pathToFileURL(join(home, 'dist', file)))
const { PGlite } = await load('index.js')
const { timescaledb } = await load('timescaledb/index.js')
const db = await PGlite.create({ extensions: { timescaledb } })
// Without this the extension wakes only at its first use, and compressed chunks read as empty until then.
await db.exec(`LOAD 'timescaledb'; CREATE EXTENSION IF NOT EXISTS timescaledb; SET TIME ZONE 'UTC'; SET client_min_messages TO notice`)
const version = (await db.query('SHOW server_version')).rows[0].server_version

const text = (s) => Buffer.from(s + '\0')
const message = (type, ...parts) => {
  const body = Buffer.concat(parts)
  const head = Buffer.alloc(5)
  head.write(type)
  head.writeInt32BE(body.length + 4, 1)
  return Buffer.concat([head, body])
}
const int32 = (n) => { const b = Buffer.alloc(4); b.writeInt32BE(n); return b }
const cstring = (body, at) => body.toString('utf8', at, body.indexOf(0, at))
const ready = message('Z', Buffer.from('I'))
const greeting = (id) => Buffer.concat([
  message('R', int32(0)),
  ...Object.entries({
    server_version: version, server_encoding: 'UTF8', client_encoding: 'UTF8', DateStyle: 'ISO, MDY', TimeZone: 'UTC',
    integer_datetimes: 'on', standard_conforming_strings: 'on',
  }).map(([name, value]) => message('S', text(name), text(value))),
  message('K', int32(id), int32(0)),
  ready,
])

/** Cuts `bytes` into whole messages, each with its type letter; the rest waits for more. */
function split(bytes) {
  const whole = []
  let at = 0
  while (bytes.length - at >= 5 && bytes.length - at > bytes.readInt32BE(at + 1)) {
    const end = at + 1 + bytes.readInt32BE(at + 1)
    whole.push({ type: String.fromCharCode(bytes[at]), body: bytes.subarray(at + 5, end), bytes: bytes.subarray(at, end) })
    at = end
  }
  return [whole, bytes.subarray(at)]
}

const clients = new Map()
let queue = Promise.resolve()
/** Takes the backend when all who asked before have let go of it; resolves to the function that lets go. */
function take() {
  let release
  const mine = new Promise((done) => { release = done })
  const turn = queue.then(() => release)
  queue = mine
  return turn
}

/** Runs one message on the backend and sends the answer to `client`; true when the backend is idle afterwards. */
async function run(client, bytes, hidden = '') {
  const answer = Buffer.from(await db.execProtocolRaw(bytes, { throwOnError: false }))
  let idle = false
  for (const part of split(answer)[0]) {
    if (part.type === 'A') {
      const channel = cstring(part.body, 4)
      for (const c of clients.values()) if (c.channels.has(channel)) c.socket.write(part.bytes)
    } else if (!hidden.includes(part.type)) client.socket.write(part.bytes)
    if (part.type === 'Z') idle = part.body[0] === 73 // 'I'
  }
  return idle
}

/** Rewrites the names in a message so that each client has its own; the unnamed statement gets a name too. */
function renamed(client, { type, body, bytes }) {
  const own = (name) => text(`c${client.id}_${name}`)
  const portal = (name) => (name ? own(name) : text(''))
  if (type === 'P') {
    const name = cstring(body, 0)
    client.statements.add(name)
    return message('P', own(name), body.subarray(Buffer.byteLength(name) + 1))
  }
  if (type === 'B') {
    const to = cstring(body, 0), from = cstring(body, Buffer.byteLength(to) + 1)
    return message('B', portal(to), own(from), body.subarray(Buffer.byteLength(to) + Buffer.byteLength(from) + 2))
  }
  if (type === 'D' || type === 'C') {
    const name = cstring(body, 1)
    return message(type, body.subarray(0, 1), body[0] === 83 ? own(name) : portal(name)) // 'S' is a statement
  }
  if (type === 'E') return message('E', portal(cstring(body, 0)), body.subarray(body.indexOf(0) + 1))
  return bytes
}

/** Notes LISTEN and UNLISTEN. The one backend goes on listening for the other clients, so UNLISTEN never reaches it. */
function note(client, sql) {
  return sql.replace(/(^|;)(\s*)(un)?listen\s+(\*|"[^"]+"|\w+)/gi, (whole, before, space, un, name) => {
    const channel = name.startsWith('"') ? name.slice(1, -1) : name.toLowerCase()
    if (!un) client.channels.add(channel)
    else if (channel === '*') client.channels.clear()
    else client.channels.delete(channel)
    return un ? `${before}${space}SET application_name TO ''` : whole
  })
}

async function handle(client, m) {
  if (m.type === 'X') return client.socket.end()
  if (client.copy) {
    // The backend reads a COPY only from the call that started it, so the data is kept until it is whole.
    client.copy.push(m.bytes)
    if (m.type !== 'c' && m.type !== 'f') return
    const whole = Buffer.concat(client.copy)
    client.copy = null
    return settle(client, await run(client, whole, 'G'))
  }
  client.release ??= await take()
  let bytes = m.bytes
  if (m.type === 'Q') {
    const sql = cstring(m.body, 0)
    if (/^\s*copy\s[^;]*\sfrom\s+stdin/i.test(sql)) {
      client.copy = [bytes]
      return client.socket.write(message('G', Buffer.from([0, 0, 0])))
    }
    bytes = message('Q', text(note(client, sql)))
  } else if (m.type === 'P') {
    const name = cstring(m.body, 0), at = Buffer.byteLength(name) + 1
    const sql = cstring(m.body, at)
    if (!name && client.statements.has(name)) await run(client, renamed(client, { type: 'C', body: text('S') }), '3')
    bytes = message('P', text(name), text(note(client, sql)), m.body.subarray(at + Buffer.byteLength(sql) + 1))
  }
  settle(client, await run(client, renamed(client, { type: m.type, body: bytes.subarray(5), bytes })))
}

function settle(client, idle) {
  if (!idle) return
  client.release()
  client.release = null
}

async function leave(client) {
  clients.delete(client.id)
  const release = client.release ?? await take()
  await db.execProtocolRaw(message('S'), { throwOnError: false })
  await db.execProtocolRaw(message('Q', text('ROLLBACK')), { throwOnError: false })
  for (const name of client.statements)
    await db.execProtocolRaw(renamed(client, { type: 'C', body: text('S' + name) }), { throwOnError: false })
  await db.execProtocolRaw(message('S'), { throwOnError: false })
  release()
}

let next = 0
const server = net.createServer((socket) => {
  const client = { id: ++next, socket, statements: new Set(), channels: new Set(), copy: null, release: null }
  let rest = Buffer.alloc(0), started = false, work = Promise.resolve()
  socket.setNoDelay(true)
  socket.on('error', () => {})
  socket.on('close', () => { work = work.then(() => leave(client)).catch(console.error) })
  socket.on('data', (chunk) => {
    rest = Buffer.concat([rest, chunk])
    while (!started && rest.length >= 8 && rest.length >= rest.readInt32BE(0)) {
      const code = rest.readInt32BE(4)
      rest = rest.subarray(rest.readInt32BE(0))
      if (code === 80877103 || code === 80877104) socket.write('N') // TLS, GSSAPI: not spoken here
      else if (code !== 196608) return socket.destroy()
      else { started = true; clients.set(client.id, client); socket.write(greeting(client.id)) }
    }
    if (!started) return
    const [whole, tail] = split(rest)
    rest = tail
    for (const m of whole) work = work.then(() => handle(client, m)).catch((e) => { console.error(e); socket.destroy() })
  })
})
server.listen(port, '127.0.0.1', () => console.log(`ready ${server.address().port}`))
