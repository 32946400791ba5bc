// Lists the clients, puts one into a group, sends to the group, and closes it.

import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const GROUP = "lobby";
const PATIENCE = 5_000; // milliseconds that an answer may take

// The protobuf files are read when the program starts; nothing is generated.
const definition = loader.loadSync(
  ["connections", "directory", "membership", "messages"].map((name) => `gateway/v1/${name}.proto`),
  {
    includeDirs: [fileURLToPath(new URL("../../proto", import.meta.url))],
    longs: Number,
    enums: String,
    defaults: true,
  },
);
const v1 = grpc.loadPackageDefinition(definition).gateway.v1;

// Clients of one address share a connection.
const address = process.env.GATEWAY ?? "127.0.0.1:20819";
const service = (name) => new v1[name](address, grpc.credentials.createInsecure());
const terms = () => ({ deadline: Date.now() + PATIENCE });
const call = (client, method, request) =>
  promisify(client[method]).call(client, request, terms());

async function drive() {
  const clients = [];
  // A list of any length comes in parts.
  for await (const part of service("Directory").streamClients({}, terms())) {
    clients.push(...part.clients.map((client) => client.id));
  }
  for (const id of clients) console.log("client", id);
  if (clients.length === 0) throw new Error("nobody is connected");
  const id = clients[0];

  const request = { groups: [GROUP], clients: [id] };
  const { joined, failures } = await call(service("Membership"), "join", request);
  // The call succeeds even if an item fails, for example because the client has just left.
  for (const failure of failures) throw new Error(`${failure.field}: ${failure.message}`);
  console.log(`joined ${GROUP}: ${joined}`);

  const { delivery } = await call(service("Messages"), "send", {
    target: { groups: [GROUP] },
    message: { kind: "KIND_TEXT", data: Buffer.from("hello, lobby") },
    // Later than that it is of no use to anybody.
    ttl: { seconds: 10 },
    // Names the event: after a lost answer the call may be repeated and arrives once.
    idempotencyKey: `greeting of ${id}`,
  });
  console.log(`sent: ${delivery.queued} of ${delivery.matched}`);

  const { closed } = await call(service("Connections"), "close", {
    target: { clients: [id] },
    code: 1000,
    reason: "that was all",
  });
  console.log("closed:", closed);
}

try {
  await drive();
} catch (error) {
  // What a call failed with has a code and details, anything else only a message.
  console.error("details" in error ? `${grpc.status[error.code]}: ${error.details}` : error.message);
  process.exitCode = 1;
}
