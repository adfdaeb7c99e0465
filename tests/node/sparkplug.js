// A second reader of Sparkplug B: the payload of Eclipse Tahu, the reference, behind a plain MQTT client.
//
//   sparkplug.js PORT GROUP EDGE COUNT    asks an edge node for its births, hears it until it has COUNT results, and prints
//                                         one JSON object: the births in their order, and the results as {id: verdict}
//
// Data carry no data types, as the specification wants it. sparkplug-payload 1.0.3 gives no value without one, so data are
// decoded by the protobuf of Tahu itself, and each value is taken by the type of its birth.

const { decodePayload, encodePayload } = require("sparkplug-payload").get("spBv1.0");
const { Payload } = require("sparkplug-payload/lib/sparkplugPayloadProto.js").org.eclipse.tahu.protobuf;
const mqtt = require("mqtt");

const [port, group, edge, count] = process.argv.slice(2);
const PATIENCE_MS = 60_000;
const births = [], results = {}, names = new Map();

const client = mqtt.connect(`mqtt://127.0.0.1:${port}`);
const late = setTimeout(() => {
  console.error(`${Object.keys(results).length} of ${count} results; births ${births}`);
  process.exit(1);
}, PATIENCE_MS);

client.on("connect", () => client.subscribe(`spBv1.0/${group}/#`, { qos: 0 }, () => {
  const rebirth = { name: "Node Control/Rebirth", type: "Boolean", value: true };
  client.publish(`spBv1.0/${group}/NCMD/${edge}`, Buffer.from(encodePayload({ timestamp: Date.now(), metrics: [rebirth] })));
}));
client.on("message", (topic, bytes) => {
  const [, , kind, , device] = topic.split("/");
  if (!kind || kind === "NDEATH" || kind.endsWith("CMD")) return;
  if (kind.endsWith("BIRTH")) {
    const payload = decodePayload(bytes);
    births.push(device ? `${kind} ${device}` : kind);
    for (const metric of payload.metrics) {
      if (metric.alias !== undefined && metric.alias !== null) names.set(metric.alias.toString(), metric.name);
    }
    return;
  }
  const { metrics } = Payload.decode(bytes);
  const of = (name) => metrics.find((metric) => names.get(metric.alias.toString()) === name)?.stringValue;
  const id = of("Result/inspection_id");
  if (kind === "DDATA" && id) results[id] = of("Result/verdict");
  if (Object.keys(results).length < Number(count)) return;
  clearTimeout(late);
  client.end(true, {}, () => console.log(JSON.stringify({ births, results })));
});
