"""A client of OPC UA as a plant has one: asyncua, which the tests tell what to do, a line a command.

    opcua_client.py COMMAND URL ARGUMENT...    answers with one line of JSON

What is asked for by path is below the camera, as VisionStateMachine.CurrentState.
"""

import asyncio
import json
import logging
import sys
import time
from pathlib import Path

from asyncua import Client, ua
from asyncua.common.events import get_filter_from_event_type
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.security_policies import SecurityPolicyAes256Sha256RsaPss, SecurityPolicyBasic256Sha256
from cryptography.x509.oid import ExtendedKeyUsageOID

VISION = "http://opcfoundation.org/UA/MachineVision"
OWN = "urn:inspectd:cameras"
POLICIES = {"basic": SecurityPolicyBasic256Sha256, "pss": SecurityPolicyAes256Sha256RsaPss}
PATIENCE = 60

# It warns of each type of the core that it has under the same name.
logging.getLogger("asyncua").setLevel(logging.ERROR)


class Cell:
    """One connection, with the types of the standard."""

    def __init__(self, url, user=None, password=None):
        self.client = Client(url, timeout=30)
        self.client.application_uri = "urn:test:client"
        if user:
            self.client.set_user(user)
            self.client.set_password(password)

    async def secure(self, pki, policy, mode):
        """With the certificate in the folder, which is made where there is none."""
        folder = Path(pki)
        key, certificate = folder / "key.pem", folder / "client.der"
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        await setup_self_signed_certificate(
            key, certificate, "urn:test:client", "localhost", usages, {"commonName": "test client"}
        )
        mode = getattr(ua.MessageSecurityMode, mode)
        await self.client.set_security(POLICIES[policy], str(certificate), str(key), mode=mode)

    async def __aenter__(self):
        await self.client.connect()
        self.vision = await self.client.get_namespace_index(VISION)
        self.own = await self.client.get_namespace_index(OWN)
        # asyncua finds such types by their name, and the core has one that is called the same.
        ua.register_basetype("VisionTrimmedString", ua.NodeId(3017, self.vision), ua.String)
        await self.client.load_data_type_definitions()
        return self

    async def __aexit__(self, *error):
        await self.client.disconnect()

    def node(self, camera, path=""):
        return self.client.get_node(ua.NodeId(f"{camera}.{path}" if path else camera, self.own))

    async def read(self, camera, path):
        return await self.node(camera, path).read_value()

    async def state(self, camera):
        """The inner state where it is active, else the outer one."""
        outer = await self.read(camera, "VisionStateMachine.CurrentState")
        if outer.Text != "Operational":
            return outer.Text
        try:
            path = "VisionStateMachine.AutomaticModeStateMachine.CurrentState"
            return (await self.read(camera, path)).Text
        except ua.UaStatusCodeError:
            # It has left Operational between the two.
            return (await self.read(camera, "VisionStateMachine.CurrentState")).Text

    async def until(self, camera, state):
        ends = time.monotonic() + PATIENCE
        while await self.state(camera) != state:
            if time.monotonic() > ends:
                raise TimeoutError(f"{camera} is {await self.state(camera)}, not {state}")
            await asyncio.sleep(0.05)

    async def call(self, camera, path, *arguments):
        above, name = path.rsplit(".", 1) if "." in path else ("", path)
        return await self.node(camera, above).call_method(self.node(camera, path), *arguments)

    async def job(self, camera, part, meas="meas"):
        """Starts a job; its id."""
        arguments = [
            ua.MeasIdDataType(Id=f"{meas} {part}" if meas else None),
            ua.PartIdDataType(Id=part),
            ua.RecipeIdExternalDataType(Id=None),
            ua.ProductIdDataType(Id="lot 7"),
            ua.Variant([], ua.VariantType.Variant, is_array=True),
        ]
        job, error = await self.call(
            camera, "VisionStateMachine.AutomaticModeStateMachine.StartSingleJob", *arguments
        )
        assert error == 0
        return job.Id

    async def halt(self, camera):
        cause = [ua.Variant(1, ua.VariantType.Int32), "by hand"]
        return await self.call(camera, "VisionStateMachine.Halt", *cause)

    async def reset(self, camera):
        cause = [ua.Variant(0, ua.VariantType.Int32), "go on"]
        return await self.call(camera, "VisionStateMachine.Reset", *cause)

    async def results_of(self, camera, job="", part="", meas=None, most=10):
        empty = lambda kind: kind(Id=None)
        number = lambda n: ua.Variant(n, ua.VariantType.UInt32)
        arguments = [
            ua.Variant(0, ua.VariantType.Int32),
            ua.MeasIdDataType(Id=meas),
            ua.PartIdDataType(Id=part),
            empty(ua.RecipeIdExternalDataType),
            empty(ua.RecipeIdInternalDataType),
            empty(ua.ConfigurationIdDataType),
            empty(ua.ConfigurationIdDataType),
            empty(ua.ProductIdDataType),
            ua.JobIdDataType(Id=job),
            number(most),
            number(0),
            ua.Variant(1000, ua.VariantType.Int32),
        ]
        answer = await self.call(camera, "ResultManagement.GetResultListFiltered", *arguments)
        complete, count, _, results, error = answer
        results = results or []
        assert error == 0 and count == len(results), answer
        return results


class Heard:
    """What a subscription hears of events."""

    def __init__(self):
        self.events = []

    def event_notification(self, event):
        self.events.append(event)

    def datachange_notification(self, node, value, data):
        self.events.append(value)

    async def until(self, count):
        ends = time.monotonic() + PATIENCE
        while len(self.events) < count:
            if time.monotonic() > ends:
                raise TimeoutError(f"{len(self.events)} events, not {count}")
            await asyncio.sleep(0.05)


class HeardEvents(Heard):
    """The same of events alone: the server also reports the item's value once, which has none."""

    def datachange_notification(self, node, value, data):
        pass


async def of_type(kind):
    """What is of a type, by the operator for it; asyncua's own filter lists types, which the server does not compare."""
    wanted = await get_filter_from_event_type([kind])
    element = ua.ContentFilterElement()
    element.FilterOperator = ua.FilterOperator.OfType
    element.FilterOperands = [ua.LiteralOperand(Value=ua.Variant(kind.nodeid, ua.VariantType.NodeId))]
    wanted.WhereClause = ua.ContentFilter(Elements=[element])
    return wanted


def of_fields(*paths):
    """These fields of every event; each path is a list of (namespace, name)."""
    wanted = ua.EventFilter()
    for path in paths:
        clause = ua.SimpleAttributeOperand()
        clause.TypeDefinitionId = ua.NodeId(ua.ObjectIds.BaseEventType)
        clause.BrowsePath = [ua.QualifiedName(name, namespace) for namespace, name in path]
        clause.AttributeId = ua.AttributeIds.Value
        wanted.SelectClauses.append(clause)
    return wanted


async def status(work):
    """The name of the status by which something is refused; good where it is not."""
    try:
        await work
        return "Good"
    except ua.UaStatusCodeError as error:
        return type(error).__name__
    except Exception as error:
        return f"{type(error).__name__}: {error}"


async def browse(url):
    """What anybody finds who browses: the cameras, their types, the state and its number."""
    async with Cell(url) as cell:
        found = {}
        for node in await cell.client.nodes.objects.get_children():
            name = await node.read_browse_name()
            if name.NamespaceIndex != cell.own:
                continue
            kind = cell.client.get_node(await node.read_type_definition())
            children = [await child.read_browse_name() for child in await node.get_children()]
            found[name.Name] = [(await kind.read_browse_name()).Name, sorted(c.Name for c in children)]
        await cell.until("cam1", "Ready")
        number = await cell.read("cam1", "VisionStateMachine.CurrentState.Number")
        inner = await cell.read("cam1", "VisionStateMachine.AutomaticModeStateMachine.CurrentState.Number")
        recipe = await cell.read("cam1", "RecipeManagement.ActiveRecipe")
        types = await cell.client.get_node(ua.NodeId(1003, cell.vision)).read_browse_name()
        return {"found": found, "numbers": [number, inner], "recipe": recipe.Id, "type": types.Name}


async def jobs(url, count):
    """Jobs one after the other; each part with the id of its job, as events and records say it."""
    async with Cell(url) as cell:
        heard = HeardEvents()
        subscription = await cell.client.create_subscription(100, heard)
        ready = cell.client.get_node(ua.NodeId(1024, cell.vision))
        await subscription.subscribe_events(cell.node("cam1"), ready, await of_type(ready), queuesize=100)
        await cell.until("cam1", "Ready")
        started = {}
        for number in range(int(count)):
            part = f"part {number}"
            started[part] = await cell.job("cam1", part)
            await heard.until(number + 1)
            await cell.until("cam1", "Ready")
        by_event = {event.PartId.Id: event.JobId.Id for event in heard.events}
        meas = {event.PartId.Id: event.MeasId.Id for event in heard.events}
        by_record, contents = {}, []
        for part, job in started.items():
            (result,) = await cell.results_of("cam1", job=job)
            by_record[result.PartId.Id] = result.JobId.Id
            handle, again, error = await cell.call(
                "cam1", "ResultManagement.GetResultById", result.ResultId, ua.Variant(1000, ua.VariantType.Int32)
            )
            assert again.ResultId == result.ResultId and error == 0
            contents.append([v.Value if isinstance(v, ua.Variant) else v for v in again.ResultContent])
        newest = await cell.read("cam1", "ResultManagement.Results.Newest")
        verdict = await cell.read("cam1", "ResultManagement.Results.Newest.Verdict")
        return {
            "started": started,
            "by_event": by_event,
            "by_record": by_record,
            "meas": meas,
            "contents": contents,
            "newest": [newest.PartId.Id, verdict],
        }


async def sequence(url, count):
    """Jobs one after the other, and the events about each: their types in the order in which they came."""
    async with Cell(url) as cell:
        heard = HeardEvents()
        subscription = await cell.client.create_subscription(100, heard)
        wanted = of_fields([(0, "EventType")], [(cell.vision, "JobId")])
        base = cell.client.get_node(ua.ObjectIds.BaseEventType)
        await subscription.subscribe_events(cell.node("cam1"), base, wanted, queuesize=100)
        await cell.until("cam1", "Ready")
        names = {1013: "JobStarted", 1025: "AcquisitionDone", 1024: "ResultReady", 1023: "Ready"}
        said = {}
        for number in range(int(count)):
            job = await cell.job("cam1", f"part {number}")
            about = lambda: [names[e.EventType.Identifier] for e in heard.events if e.JobId and e.JobId.Id == job]
            ends = time.monotonic() + PATIENCE
            while "Ready" not in about() and time.monotonic() < ends:
                await asyncio.sleep(0.05)
            said[f"part {number}"] = about()
        return said


async def goes_on(url, part, meas):
    """A job without a MeasId; the record that has this one."""
    async with Cell(url) as cell:
        await cell.until("cam1", "Ready")
        job = await cell.job("cam1", part, meas=None)
        ends = time.monotonic() + PATIENCE
        while not (of_job := await cell.results_of("cam1", job=job)):
            assert time.monotonic() < ends, f"no result of {part}"
            await asyncio.sleep(0.05)
        found = await cell.results_of("cam1", meas=meas)
        return {"meas": [r.MeasId.Id for r in of_job], "found": [r.PartId.Id for r in found]}


async def conditions(url, folder):
    """The folder of triggers goes, and its alarm is raised; a client that comes then is given it, and hears of its end."""
    folder = Path(folder)
    kinds = {2787: "RefreshStart", 2788: "RefreshEnd", 1035: "Condition"}
    fields = [[(0, "EventType")], [(0, "ConditionName")], [(0, "Retain")], [(0, "ActiveState"), (0, "Id")]]
    short = lambda e: [kinds.get(e.EventType.Identifier), e.ConditionName, e.Retain, getattr(e, "ActiveState/Id")]
    async with Cell(url) as cell:
        await cell.until("cam1", "Ready")
        folder.rename(folder.with_name("gone"))
        ends = time.monotonic() + PATIENCE
        alarms = lambda: cell.read("cam1", "Alarms")
        while not any(words.startswith("trigger_folder") for words in await alarms() or []):
            assert time.monotonic() < ends, "no alarm"
            await asyncio.sleep(0.05)
        heard, named = HeardEvents(), HeardEvents()
        condition = cell.client.get_node(ua.NodeId(1035, cell.vision))
        base = cell.client.get_node(ua.ObjectIds.BaseEventType)
        first = await cell.client.create_subscription(100, heard)
        item = await first.subscribe_events(cell.node("cam1"), base, of_fields(*fields), queuesize=100)
        second = await cell.client.create_subscription(100, named)
        await second.subscribe_events(cell.node("cam1"), condition, await of_type(condition), queuesize=100)
        kind = cell.client.get_node(ua.ObjectIds.ConditionType)
        number = lambda n: ua.Variant(n, ua.VariantType.UInt32)
        refresh = lambda n: kind.call_method(ua.NodeId(ua.ObjectIds.ConditionType_ConditionRefresh), number(n))
        one = lambda n, item: kind.call_method(
            ua.NodeId(ua.ObjectIds.ConditionType_ConditionRefresh2), number(n), number(item)
        )
        await refresh(first.subscription_id)
        await refresh(second.subscription_id)
        await heard.until(3)
        await named.until(1)
        said = {"refreshed": [short(e) for e in heard.events], "ids": [named.events[0].NodeId.Identifier]}
        heard.events.clear()
        await one(first.subscription_id, item)
        await heard.until(3)
        said["one"] = [short(e)[:2] for e in heard.events]
        said["no subscription"] = await status(refresh(1_000_000))
        said["no item"] = await status(one(first.subscription_id, 1_000_000))
        heard.events.clear()
        folder.with_name("gone").rename(folder)
        await heard.until(1)
        await named.until(2)
        said["over"] = short(heard.events[0])
        said["ids"].append(named.events[1].NodeId.Identifier)
        return said


async def machine(url):
    """Halt, Reset, recipes, and what does not go in a state."""
    async with Cell(url) as cell:
        await cell.until("cam1", "Ready")
        heard = HeardEvents()
        subscription = await cell.client.create_subscription(100, heard)
        changed = cell.client.get_node(ua.NodeId(1018, cell.vision))
        await subscription.subscribe_events(cell.node("cam1"), changed, await of_type(changed), queuesize=100)
        said = {"halt": await cell.halt("cam1"), "halted": await cell.state("cam1")}
        said["halt again"] = await status(cell.halt("cam1"))
        said["job while halted"] = await status(cell.job("cam1", "none"))
        said["reset"] = await cell.reset("cam1")
        await cell.until("cam1", "Ready")
        external = ua.RecipeIdExternalDataType(Id="photo")
        internal = ua.RecipeIdInternalDataType(Id=None)
        prepared, complete, error = await cell.call(
            "cam1", "RecipeManagement.PrepareRecipe", external, internal
        )
        said["prepared"] = [prepared.Id, complete, error]
        said["active"] = (await cell.read("cam1", "RecipeManagement.ActiveRecipe")).Id
        wrong = ua.RecipeIdExternalDataType(Id="none")
        said["no recipe"] = await status(cell.call("cam1", "RecipeManagement.PrepareRecipe", wrong, internal))
        said["stop"] = await status(
            cell.call(
                "cam1",
                "VisionStateMachine.AutomaticModeStateMachine.Stop",
                ua.Variant(0, ua.VariantType.Int32),
                "",
            )
        )
        said["free running"] = await cell.state("free")
        said["job while free running"] = await status(cell.job("free", "none"))
        await heard.until(4)
        said["walk"] = [event.Transition.Text for event in heard.events[:4]]
        return said


async def secure(url, pki, policy, mode, user, password):
    """Comes in by a certificate and a password, and reads; or the status by which it is refused."""
    cell = Cell(url, user, password)
    try:
        await cell.secure(pki, policy, mode)
        async with cell:
            await cell.until("cam1", "Ready")
            reads = await cell.state("cam1")
            halts = await status(cell.halt("cam1"))
            if halts == "Good":
                await cell.reset("cam1")
            return {"reads": reads, "halts": halts}
    except ua.UaStatusCodeError as error:
        return {"refused": type(error).__name__}
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"}


async def hang(url, count):
    """Subscribes to much and then neither reads nor asks: whoever starts it kills it."""
    cell = Cell(url)
    await cell.client.connect()
    cell.own = await cell.client.get_namespace_index(OWN)
    subscription = await cell.client.create_subscription(100, Heard())
    nodes = [cell.node("cam1", "VisionStateMachine.CurrentState")] * int(count)
    try:
        made = await subscription.subscribe_data_change(nodes, queuesize=100)
    except ua.UaStatusCodeError as error:
        await cell.client.disconnect()
        return {"refused": type(error).__name__}
    bad = [m for m in made if isinstance(m, ua.StatusCode)]
    print(json.dumps({"items": len(made) - len(bad)}), flush=True)
    time.sleep(3600)


async def leave(url, count):
    """Opens sessions, leaves a subscription behind in each, and says how many were let in before it was refused."""
    for number in range(int(count)):
        client = Client(url, timeout=30)
        try:
            await client.connect()
            await client.create_subscription(3_600_000, Heard())
            await client.uaclient.close_session(delete_subscriptions=False)
            client.uaclient.disconnect_socket()
        except ua.UaStatusCodeError as error:
            return {"left": number, "refused": type(error).__name__}
    return {"left": int(count), "refused": None}


async def sessions(url, count):
    """Opens sessions at once; how many came in, and how the next one was refused."""
    clients, refused = [], None
    for _ in range(int(count)):
        client = Client(url, timeout=30)
        try:
            await client.connect()
            clients.append(client)
        except ua.UaStatusCodeError as error:
            refused = type(error).__name__
            break
    for client in clients:
        await client.disconnect()
    return {"let in": len(clients), "refused": refused}


async def follow(url, count):
    """Starts one job, says so, and waits through the daemon's end and next start until the record has the job."""
    async with Cell(url) as cell:
        await cell.until("cam1", "Ready")
        job = await cell.job("cam1", "the last")
        print(json.dumps({"job": job}), flush=True)
    return {}


async def found(url, job):
    """The results of a job, asked for until there is one."""
    ends = time.monotonic() + PATIENCE
    while True:
        try:
            async with Cell(url) as cell:
                results = await cell.results_of("cam1", job=job)
                if results:
                    return {"parts": [r.PartId.Id for r in results], "meas": [r.MeasId.Id for r in results]}
        except (ConnectionError, OSError, asyncio.TimeoutError):
            pass
        if time.monotonic() > ends:
            raise TimeoutError(f"no result of {job}")
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    commands = [browse, jobs, sequence, goes_on, conditions, machine, secure, hang, leave, sessions, follow, found]
    chosen = {command.__name__: command for command in commands}[sys.argv[1]]
    print(json.dumps(asyncio.run(chosen(*sys.argv[2:]))))
