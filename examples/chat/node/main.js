// A chat: the gateway holds the connections and tells what clients do, this says what it means.

import { createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";

import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const path = (name) => fileURLToPath(new URL(name, import.meta.url));
const SECRET = readFileSync(path("../secret"), "latin1").replace(/[\r\n]+$/, "");
const PORT = 8080;

// The protobuf files are read when the program starts; nothing is generated.
const definition = loader.loadSync(
  ["directory", "events"].map((name) => `gateway/v1/${name}.proto`),
  // Epochs and cursors have 64 bits, which a number of JavaScript has not.
  { includeDirs: [path("../../../proto")], longs: String, oneofs: true, defaults: true },
);
const v1 = grpc.loadPackageDefinition(definition).gateway.v1;

// A JSON Web Token: who has it may connect as `name`, and stay for an hour.
function token(name) {
  const encode = (part) => Buffer.from(JSON.stringify(part)).toString("base64url");
  const claims = { sub: name, exp: Math.floor(Date.now() / 1000) + 3600 };
  const said = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  const seal = createHmac("sha256", Buffer.from(SECRET, "latin1")).update(said).digest("base64url");
  return `${said}.${seal}`;
}

// The page, and tokens. Here anybody is who he says; a real one would ask for a password.
const site = createServer((request, response) => {
  const url = new URL(request.url, "http://localhost");
  const name = url.searchParams.get("name");
  const answer = (status, kind, body) =>
    response.writeHead(status, { "Content-Type": kind }).end(body);
  if (url.pathname === "/") answer(200, "text/html; charset=utf-8", readFileSync(path("../page.html")));
  else if (url.pathname === "/token" && name) answer(200, "text/plain", token(name));
  else answer(404, "text/plain", "not found\n");
});

const address = process.env.GATEWAY ?? "127.0.0.1:20819";
const service = (name) => new v1[name](address, grpc.credentials.createInsecure());
const directory = service("Directory");
const events = service("Events");

// Of each client that is in a room: which, and by which name.
let places = new Map();

// The gateway remembers the rooms, which are groups: it is asked after each restart.
async function whoIsWhere() {
  const known = new Map();
  for await (const { groups } of directory.streamGroups({})) {
    for (const { name: room } of groups) {
      for await (const { clients } of directory.streamClients({ filter: { group: room } })) {
        for (const { id, uid } of clients) known.set(id, { room, name: uid });
      }
    }
  }
  return known;
}

const send = (what, target) => ({ target, message: { kind: 1, data: Buffer.from(JSON.stringify(what)) } });

// What is changed, and what is sent, because of an event.
function react(event) {
  const { client, uid: name } = event;
  if (event.what === "message") {
    try {
      return heard(client, name, JSON.parse(event.message.data));
    } catch {
      return { sends: [send({ what: "error", text: "not understood" }, { clients: [client] })] };
    }
  }
  if (event.what === "closed" && places.has(client)) {
    const { room, name } = places.get(client);
    places.delete(client);
    return { sends: [send({ what: "left", name, room }, { groups: [room] })] };
  }
  return {};
}

function heard(client, name, said) {
  const place = places.get(client);
  if (said.do === "join" && !place) {
    const room = String(said.room);
    places.set(client, { room, name });
    const sends = [send({ what: "joined", name, room }, { groups: [room] })];
    return { applies: [{ client, join: [room] }], sends };
  }
  if (!place) return { sends: [send({ what: "error", text: "join a room first" }, { clients: [client] })] };
  const { room } = place;
  if (said.do === "say") {
    return { sends: [send({ what: "said", name, text: String(said.text) }, { groups: [room] })] };
  }
  if (said.do === "who") {
    const there = [...places.values()].filter((other) => other.room === room);
    const names = there.map((other) => other.name).sort();
    return { sends: [send({ what: "who", room, names }, { clients: [client] })] };
  }
  if (said.do === "leave") {
    places.delete(client);
    const sends = [send({ what: "left", name, room }, { clients: [client], groups: [room] })];
    return { applies: [{ client, leave: [room] }], sends };
  }
  throw new Error(said.do);
}

// Hears events and acknowledges each with what is to be done, until the stream ends.
async function chat() {
  const stream = events.subscribe();
  stream.write({ start: { group: "chat" } });
  let epoch;
  for await (const { step, hello, events: batch, done } of stream) {
    if (step === "hello") {
      ({ epoch } = hello);
      places = await whoIsWhere();
      console.log(`chat is open: http://127.0.0.1:${PORT}/`);
    } else if (step === "done") {
      for (const { field, message } of done.failures) console.log(`${field}: ${message}`);
    } else {
      for (const event of batch.events) {
        stream.write({ acknowledgement: { epoch, cursor: event.cursor, ...react(event) } });
      }
    }
  }
}

site.listen(PORT, "127.0.0.1");
for (;;) {
  try {
    await chat();
  } catch (error) {
    console.error(`${grpc.status[error.code] ?? error.code}: ${error.details ?? error.message}`);
  }
  await new Promise((resolve) => setTimeout(resolve, 1000));
}
