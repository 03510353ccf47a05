// Node's http2 module as an SSE server, HTTP/2 and HTTP/1.1 over TLS:
//
//   node node.js PROTOCOL HOST PORT CERT KEY MAX_STREAMS
//
// One process.  PROTOCOL "h2" is the http2 module's server, with HTTP/1.1 beside it (`allowHTTP1`);
// "http/1.1" is the https module's, as http2's always offers HTTP/2.  One handler serves both, by the
// compatibility API.
'use strict'

const fs = require('node:fs')
const http2 = require('node:http2')
const https = require('node:https')

const [protocol, host, port, cert, key, maxStreams] = process.argv.slice(2)

// Unsent bytes of a tab.  Past this it is ended, and its EventSource reconnects: the bound h2sse has.
const BACKLOG_BYTES = 256 * 1024

// The tabs of each topic, as the responses that stay open.
const topics = new Map()

function subscribe (request, response, topic) {
  if (!topics.has(topic)) topics.set(topic, new Set())
  const tabs = topics.get(topic)
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' })
  response.write(': hello\n\n')
  tabs.add(response)
  response.on('close', () => tabs.delete(response))
}

function publish (topic, data) {
  // Encoded once, not by each stream.
  const event = Buffer.from(`data: ${data}\n\n`)
  for (const response of topics.get(topic) ?? []) {
    if (response.writableLength > BACKLOG_BYTES) (response.stream ?? response).destroy()
    else response.write(event)
  }
}

function handle (request, response) {
  const url = new URL(request.url, 'https://localhost')
  if (request.method === 'GET' && url.pathname === '/events') {
    subscribe(request, response, url.searchParams.get('topic'))
  } else if (request.method === 'POST' && url.pathname === '/publish') {
    let body = ''
    request.setEncoding('utf8')
    request.on('data', (text) => { body += text })
    request.on('end', () => {
      const form = new URLSearchParams(body)
      publish(form.get('topic'), form.get('data'))
      response.writeHead(204).end()
    })
  } else {
    response.writeHead(url.pathname === '/' ? 200 : 404).end('an SSE server\n')
  }
}

const tls = { cert: fs.readFileSync(cert), key: fs.readFileSync(key) }
const server = protocol === 'http/1.1'
  ? https.createServer(tls, handle)
  : http2.createSecureServer({
    ...tls,
    allowHTTP1: true,
    settings: { maxConcurrentStreams: Number(maxStreams) },
    // In MB; at 10, the default, a session with thousands of streams may refuse more of them.
    maxSessionMemory: 4096,
    // Of the publisher's HTTP/1.1 connection; HTTP/2 sessions and https set it themselves.
    noDelay: true
  }, handle)

// The publisher's connection may be quiet for more than the 5 seconds of the default, and clients
// that begin by the thousand take more than the 60 of headersTimeout to come to their requests.
server.keepAliveTimeout = 3600 * 1000
server.headersTimeout = 600 * 1000
server.requestTimeout = 600 * 1000
// A client that goes without a word is no reason to stop, which it would be without a listener.
server.on('sessionError', () => {})

// The kernel takes at most net.core.somaxconn; Node's default is 511.
server.listen({ host, port: Number(port), backlog: 4096 })
