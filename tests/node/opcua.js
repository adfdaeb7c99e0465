// A second client of OPC UA: node-opcua, which shares no code with asyncua.
//
//   opcua.js URL COUNT    starts COUNT jobs at cam1, hears their results as events, and prints one JSON object:
//                         {"started": {part: job}, "heard": {part: job}, "state": of the machine, "verdicts": [...]}

const {
  AttributeIds, constructEventFilter, DataType, ofType, OPCUAClient, resolveNodeId, TimestampsToReturn,
  Variant, VariantArrayType,
} = require("node-opcua-client");

const PATIENCE_MS = 60_000;

async function until(what, holds) {
  const ends = Date.now() + PATIENCE_MS;
  while (!(await holds())) {
    if (Date.now() > ends) throw new Error(`waited in vain until ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

async function main(url, count) {
  const client = OPCUAClient.create({ endpointMustExist: false, connectionStrategy: { maxRetry: 3 } });
  await client.connect(url);
  const session = await client.createSession();
  const namespaces = await session.readNamespaceArray();
  const vision = namespaces.indexOf("http://opcfoundation.org/UA/MachineVision");
  const own = namespaces.indexOf("urn:inspectd:cameras");
  const node = (path) => `ns=${own};s=cam1${path}`;
  const machine = ".VisionStateMachine.AutomaticModeStateMachine";
  const read = async (path) => (await session.read({ nodeId: node(path), attributeId: AttributeIds.Value })).value.value;
  const structure = (id, fields) => session.constructExtensionObject(resolveNodeId(`ns=${vision};i=${id}`), fields);

  const heard = {}, verdicts = [];
  const subscription = await session.createSubscription2({
    requestedPublishingInterval: 100, requestedLifetimeCount: 100, requestedMaxKeepAliveCount: 10,
    maxNotificationsPerPublish: 100, publishingEnabled: true, priority: 1,
  });
  const names = ["JobId", "PartId", "ResultContent"].map((name) => `${vision}:${name}`);
  const filter = constructEventFilter(names, ofType(resolveNodeId(`ns=${vision};i=1024`)));
  const item = await subscription.monitor(
    { nodeId: node(""), attributeId: AttributeIds.EventNotifier }, { samplingInterval: 0, queueSize: 100, filter },
    TimestampsToReturn.Both,
  );
  item.on("changed", (fields) => {
    // An item of events reports once that it has no value.
    if (!Array.isArray(fields)) return;
    const [job, part, content] = fields.map((field) => field.value);
    heard[part.id] = job.id;
    verdicts.push(content[0].value ?? content[0]);
  });

  const started = {};
  for (let number = 0; number < count; number += 1) {
    await until("the camera is ready", async () => (await read(`${machine}.CurrentState`))?.text === "Ready");
    const part = `part ${number}`;
    const ids = [
      await structure(3015, { id: `meas ${number}` }), await structure(3004, { id: part }),
      await structure(3002, {}), await structure(3003, { id: "lot 7" }),
    ];
    const inputArguments = ids.map((value) => new Variant({ dataType: DataType.ExtensionObject, value }));
    inputArguments.push(new Variant({ dataType: DataType.Variant, arrayType: VariantArrayType.Array, value: [] }));
    const called = await session.call({ objectId: node(machine), methodId: node(`${machine}.StartSingleJob`), inputArguments });
    if (!called.statusCode.isGood()) throw new Error(`StartSingleJob: ${called.statusCode.toString()}`);
    started[part] = called.outputArguments[0].value.id;
    await until("its result is heard", async () => part in heard);
  }
  await until("the camera is ready", async () => (await read(`${machine}.CurrentState`))?.text === "Ready");
  const state = (await read(".VisionStateMachine.CurrentState")).text;
  await subscription.terminate();
  await session.close();
  await client.disconnect();
  console.log(JSON.stringify({ started, heard, state, verdicts }));
}

main(process.argv[2], Number(process.argv[3])).catch((error) => {
  console.error(error);
  process.exit(1);
});
