# An independent vSphere client (pyvmomi) as a judge of ours.
#
#   witness.py inventory URL USER PASSWORD AUTHORITY   prints what there is, one fact a line
#   witness.py option URL USER PASSWORD AUTHORITY MACHINE KEY VALUE   sets an advanced setting of a machine
#   witness.py requests FILE                           checks every request in FILE (one JSON string a line) against the API's description:
#                                                      methods and elements that exist, in the WSDL's order, none missing that must be there
import json
import ssl
import sys
import xml.etree.ElementTree as ET

from pyVim.connect import SmartConnect
from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import F_OPTIONAL, GetWsdlType, ManagedObject

VIM = "{urn:vim25}"
XSI = "{http://www.w3.org/2001/XMLSchema-instance}type"


def connect(url, user, password, authority):
    host, port = url.split("/")[2].split(":")
    context = ssl.create_default_context(cafile=authority)
    return SmartConnect(host=host, port=int(port), user=user, pwd=password, sslContext=context).content


def option(url, user, password, authority, machine, key, value):
    content = connect(url, user, password, authority)
    machines = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True).view
    found = next(one for one in machines if one.name == machine)
    found.ReconfigVM_Task(vim.vm.ConfigSpec(extraConfig=[vim.option.OptionValue(key=key, value=value)]))


def inventory(url, user, password, authority):
    content = connect(url, user, password, authority)

    def each(kind):
        return content.viewManager.CreateContainerView(content.rootFolder, [kind], True).view

    def line(*facts):
        print("|".join("" if fact is None else str(fact) for fact in facts))

    def ids(objects):
        return ",".join(sorted(one._moId for one in objects))

    about = content.about
    line("about", about.fullName, about.apiType == "VirtualCenter", about.apiVersion)
    for one in each(vim.Datacenter):
        line("datacenter", one._moId, one.name, one.vmFolder._moId)
    for one in each(vim.ComputeResource):
        line("compute", one._moId, one.name, isinstance(one, vim.ClusterComputeResource), one.resourcePool._moId)
    for one in each(vim.ResourcePool):
        line("pool", one._moId, one.name, one.owner._moId)
    for one in each(vim.Folder):
        line("folder", one._moId, one.name, one.parent._moId)
    for one in each(vim.HostSystem):
        line("host", one._moId, one.name, one.parent._moId, one.runtime.inMaintenanceMode, ids(one.datastore), ids(one.network))
    for one in each(vim.Datastore):
        mounts = ",".join(sorted(f"{m.key._moId}={m.mountInfo.accessible}/{m.mountInfo.accessMode}" for m in one.host))
        line("datastore", one._moId, one.name, one.summary.type, one.summary.capacity, one.summary.freeSpace, mounts)
    for one in each(vim.Network):
        key = one.key if isinstance(one, vim.DistributedVirtualPortgroup) else ""
        switch = one.config.distributedVirtualSwitch.uuid if key else ""
        line("network", one._moId, one.name, key, switch)
    def snapshot(one):
        # The simulator breaks off when the property is asked for alone and is not there.
        spec = vmodl.query.PropertyCollector
        objects = [spec.ObjectSpec(obj=one)]
        wanted = [spec.PropertySpec(type=vim.VirtualMachine, pathSet=["snapshot"])]
        found = content.propertyCollector.RetrieveContents([spec.FilterSpec(propSet=wanted, objectSet=objects)])
        return next((one.val for one in found[0].propSet), None)

    for one in each(vim.VirtualMachine):
        machine(one, line, snapshot(one))


def machine(one, line, snapshot):
    config, hardware = one.config, one.config.hardware
    line("vm", one._moId, one.name, config.uuid, config.instanceUuid, config.firmware, config.files.vmPathName, hardware.numCPU,
         hardware.memoryMB, one.runtime.powerState, one.runtime.host._moId, one.resourcePool._moId, one.parent._moId,
         one.guest.toolsRunningStatus == "guestToolsRunning")
    for device in hardware.device:
        if isinstance(device, vim.VirtualDisk):
            backing = device.backing
            line("disk", one._moId, device.key, device.controllerKey, device.unitNumber, backing.fileName, backing.uuid, device.capacityInBytes,
                 backing.diskMode, backing.thinProvisioned)
        elif isinstance(device, (vim.VirtualSCSIController, vim.VirtualIDEController)):
            line("controller", one._moId, device.key, type(device)._wsdlName, device.busNumber)
        elif isinstance(device, vim.VirtualEthernetCard):
            port = getattr(device.backing, "port", None)
            where = port.portgroupKey if port else device.backing.deviceName
            line("card", one._moId, device.key, device.macAddress, where, device.connectable.startConnected)
    for option in config.extraConfig:
        line("option", one._moId, option.key.lower(), option.value)
    if snapshot:
        trees = [(None, tree) for tree in snapshot.rootSnapshotList]
        while trees:
            parent, tree = trees.pop()
            line("snapshot", one._moId, tree.snapshot._moId, tree.name, parent, tree.snapshot == snapshot.currentSnapshot)
            trees += [(tree.snapshot._moId, child) for child in tree.childSnapshotList]


def requests(file):
    methods, problems = {}, []
    with open(file) as lines:
        for text in lines:
            call = ET.fromstring(json.loads(text)).find("{http://schemas.xmlsoap.org/soap/envelope/}Body")[0]
            method = call.tag.removeprefix(VIM)
            methods[method] = methods.get(method, 0) + 1
            problems += [f"{method}: {problem}" for problem in check_call(call, method)]
    for problem in sorted(set(problems)):
        print("PROBLEM", problem)
    print("checked", sum(methods.values()), "requests:", ", ".join(sorted(methods)))
    sys.exit(1 if problems else 0)


def check_call(call, method):
    this = call[0]
    if this.tag != VIM + "_this":
        return ["_this is not first"]
    kind = GetWsdlType("urn:vim25", this.get("type"))
    info = next((one for one in methods_of(kind) if one.wsdlName == method), None)
    if info is None:
        return [f"{kind.__name__} has no such method"]
    parameters = [(one.name, one.type, one.flags) for one in info.params]
    return check_elements(list(call)[1:], parameters, method)


def methods_of(kind):
    while kind is not object:
        yield from kind.__dict__.get("_methodInfo", {}).values()
        kind = kind.__bases__[0]


def check_elements(elements, expected, where):
    names = [name for name, _, _ in expected]
    last = -1
    for element in elements:
        name = element.tag.removeprefix(VIM)
        if name not in names:
            yield f"{where} has no element {name}"
            continue
        position = names.index(name)
        kind = expected[position][1]
        is_list = isinstance(kind, type) and issubclass(kind, list)
        if position < last or (position == last and not is_list):
            yield f"{where}: {name} is not in the WSDL's order"
        last = max(last, position)
        yield from check_value(element, kind.Item if is_list else kind, f"{where}.{name}")
    there = {element.tag.removeprefix(VIM) for element in elements}
    for name, _, flags in expected:
        if name not in there and not flags & F_OPTIONAL:
            yield f"{where}: {name} is missing"


def check_value(element, kind, where):
    stated = element.get(XSI)
    if stated and not stated.startswith("xsd:"):
        actual = GetWsdlType("urn:vim25", stated)
        if not issubclass(actual, kind):
            yield f"{where}: a {stated} is no {kind.__name__}"
            return
        kind = actual
    if issubclass(kind, ManagedObject):
        if not issubclass(GetWsdlType("urn:vim25", element.get("type")), kind):
            yield f"{where}: a {element.get('type')} is no {kind.__name__}"
    elif issubclass(kind, vmodl.DynamicData):
        properties = [(one.name, one.type, one.flags) for one in kind._GetPropertyList()]
        yield from check_elements(list(element), properties, kind.__name__)
    elif len(element):
        yield f"{where}: a {kind.__name__} has no elements"


{"inventory": inventory, "option": option, "requests": requests}[sys.argv[1]](*sys.argv[2:])
