// Disks and mounts, made to look as on a real server.
package main

import (
	"crypto/sha1"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

var (
	devKeyRE = regexp.MustCompile(`<(?:\w+:)?deviceKey[^>]*>(-?\d+)<`)
	startRE  = regexp.MustCompile(`<(?:\w+:)?startOffset[^>]*>(\d+)<`)
)

// changed answers QueryChangedDiskAreas with the allocated extents of the flat file
// (what a real host answers for changeId "*" on a thin disk).
func (m *middleware) changed(w http.ResponseWriter, body []byte) {
	x, k, s := thisRE.FindSubmatch(body), devKeyRE.FindSubmatch(body), startRE.FindSubmatch(body)
	if x == nil || k == nil || s == nil {
		soapFault(w, "bad request", "InvalidRequest", "")
		return
	}
	vm, ok := simulator.Map.Get(types.ManagedObjectReference{Type: string(x[1]), Value: string(x[2])}).(*simulator.VirtualMachine)
	if !ok {
		soapFault(w, "no such vm", "ManagedObjectNotFound", "")
		return
	}
	key, _ := strconv.Atoi(string(k[1]))
	start, _ := strconv.ParseInt(string(s[1]), 10, 64)
	if vm.Config.ChangeTrackingEnabled == nil || !*vm.Config.ChangeTrackingEnabled {
		soapFault(w, "change tracking is not enabled", "InvalidArgument", "<invalidProperty>changeId</invalidProperty>")
		return
	}
	for _, d := range vm.Config.Hardware.Device {
		disk, ok := d.(*types.VirtualDisk)
		if !ok || disk.Key != int32(key) {
			continue
		}
		name := disk.Backing.(types.BaseVirtualDeviceFileBackingInfo).GetVirtualDeviceFileBackingInfo().FileName
		size := disk.CapacityInKB * 1024
		var b strings.Builder
		fmt.Fprintf(&b, `<QueryChangedDiskAreasResponse xmlns="urn:vim25"><returnval><startOffset>%d</startOffset><length>%d</length>`, start, size-start)
		if f, err := os.Open(flatPath(name)); err == nil {
			defer f.Close()
			for off := start; off < size; {
				d, err := f.Seek(off, 3 /* SEEK_DATA */)
				if err != nil {
					break
				}
				h, err := f.Seek(d, 4 /* SEEK_HOLE */)
				if err != nil {
					break
				}
				fmt.Fprintf(&b, `<changedArea><start>%d</start><length>%d</length></changedArea>`, d, h-d)
				off = h
			}
		}
		b.WriteString(`</returnval></QueryChangedDiskAreasResponse>`)
		w.Header().Set("Content-Type", "text/xml; charset=utf-8")
		fmt.Fprintf(w, envelope, b.String())
		return
	}
	soapFault(w, "no such disk", "InvalidArgument", "<invalidProperty>deviceKey</invalidProperty>")
}

// flatPath maps "[LocalDS_0] vm/disk.vmdk" to the local file with the disk's bytes.
func flatPath(name string) string {
	i := strings.Index(name, "]")
	if i < 0 {
		return ""
	}
	for _, o := range simulator.Map.All("Datastore") {
		ds := o.(*simulator.Datastore)
		if ds.Name == name[1:i] {
			return ds.Info.GetDatastoreInfo().Url + "/" + strings.Replace(strings.TrimSpace(name[i+1:]), ".vmdk", "-flat.vmdk", 1)
		}
	}
	return ""
}

func fileOf(d *types.VirtualDisk) *types.VirtualDeviceFileBackingInfo {
	if b, ok := d.Backing.(types.BaseVirtualDeviceFileBackingInfo); ok {
		return b.GetVirtualDeviceFileBackingInfo()
	}
	return nil
}

// inUse: a disk of another VM that is powered on is locked.
func inUse(file string, by types.ManagedObjectReference) bool {
	for _, o := range simulator.Map.All("VirtualMachine") {
		vm := o.(*simulator.VirtualMachine)
		if vm.Self == by || vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
			continue
		}
		for _, d := range vm.Config.Hardware.Device {
			if other, ok := d.(*types.VirtualDisk); ok {
				if f := fileOf(other); f != nil && f.FileName == file {
					return true
				}
			}
		}
	}
	return false
}

// lockedDisk: such a disk cannot be attached or deleted, and no VM that has it started.
func lockedDisk(body []byte) types.BaseMethodFault {
	m, err := simulator.UnmarshalBody(types.TypeFunc(), body)
	if err != nil {
		return nil
	}
	var by types.ManagedObjectReference
	var devices []types.BaseVirtualDevice
	switch req := m.Body.(type) {
	case *types.DeleteVirtualDisk_Task:
		if inUse(req.Name, by) {
			return &types.FileLocked{FileFault: types.FileFault{File: req.Name}}
		}
	case *types.ReconfigVM_Task:
		by = req.This
		for _, c := range req.Spec.DeviceChange {
			spec := c.GetVirtualDeviceConfigSpec()
			if spec.Operation == types.VirtualDeviceConfigSpecOperationAdd && spec.FileOperation == "" {
				devices = append(devices, spec.Device)
			}
		}
	case *types.PowerOnVM_Task:
		by = req.This
		if vm, ok := simulator.Map.Get(by).(*simulator.VirtualMachine); ok {
			devices = vm.Config.Hardware.Device
		}
	}
	for _, d := range devices {
		if disk, ok := d.(*types.VirtualDisk); ok {
			if want := fileOf(disk); want != nil && inUse(want.FileName, by) {
				return &types.FileLocked{FileFault: types.FileFault{File: want.FileName}}
			}
		}
	}
	return nil
}

// fixDisks makes every disk look as on a real server: the flat file has the disk's
// size (sparse), backing.uuid and capacityInBytes are set, and a disk attached
// without a capacity gets the one of its file.
func fixDisks() {
	for _, o := range simulator.Map.All("VirtualMachine") {
		vm := o.(*simulator.VirtualMachine)
		simulator.Map.WithLock(vm, func() {
			for _, d := range vm.Config.Hardware.Device {
				disk, ok := d.(*types.VirtualDisk)
				if !ok {
					continue
				}
				f := fileOf(disk)
				if f == nil || f.FileName == "" {
					continue
				}
				flat := flatPath(f.FileName)
				st, err := os.Stat(flat)
				if err != nil {
					continue
				}
				if disk.CapacityInKB == 0 {
					disk.CapacityInKB = st.Size() / 1024
				}
				disk.CapacityInBytes = disk.CapacityInKB * 1024
				if st.Size() < disk.CapacityInBytes {
					_ = os.Truncate(flat, disk.CapacityInBytes)
				}
				if b, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok && b.Uuid == "" {
					h := sha1.Sum([]byte(flat))
					b.Uuid = fmt.Sprintf("6000C29%x-%x-%x-%x-%x", h[0]&15, h[1:3], h[3:5], h[5:7], h[7:13])
				}
			}
		})
	}
}

// fixSettings: the library appends advanced settings. On a real server one that is there gets the new value, and an empty value removes it.
func fixSettings() {
	for _, o := range simulator.Map.All("VirtualMachine") {
		vm := o.(*simulator.VirtualMachine)
		simulator.Map.WithLock(vm, func() {
			last := map[string]int{}
			for i, option := range vm.Config.ExtraConfig {
				last[strings.ToLower(option.GetOptionValue().Key)] = i
			}
			var kept []types.BaseOptionValue
			for i, option := range vm.Config.ExtraConfig {
				value := option.GetOptionValue()
				if last[strings.ToLower(value.Key)] == i && value.Value != "" {
					kept = append(kept, option)
				}
			}
			vm.Config.ExtraConfig = kept
		})
	}
}

// fixMounts: the library records only the last host in datastore.host.
func fixMounts() {
	for _, o := range simulator.Map.All("Datastore") {
		ds := o.(*simulator.Datastore)
		ds.Host = nil
		for _, h := range simulator.Map.All("HostSystem") {
			host := h.(*simulator.HostSystem)
			if name, limited := only[ds.Name]; limited && name != host.Name {
				simulator.RemoveReference(&host.Datastore, ds.Self)
				continue
			}
			for _, ref := range host.Datastore {
				if ref == ds.Self {
					ds.Host = append(ds.Host, types.DatastoreHostMount{Key: host.Self, MountInfo: types.HostMountInfo{
						Path: ds.Info.GetDatastoreInfo().Url, AccessMode: "readWrite",
						Mounted: types.NewBool(true), Accessible: types.NewBool(true),
					}})
				}
			}
		}
		shared := len(ds.Host) > 1
		ds.Summary.MultipleHostAccess = &shared
		ds.Summary.Type = "VMFS"
	}
}

// keepDisks: removing a snapshot, the library deletes the files that have the keys of the snapshot's files. It numbers files anew meanwhile,
// so that these may be the disks. Without a record of snapshots' files it deletes none.
func keepDisks() {
	for _, o := range simulator.Map.All("VirtualMachine") {
		vm := o.(*simulator.VirtualMachine)
		simulator.Map.WithLock(vm, func() { vm.LayoutEx.Snapshot = nil })
	}
}

// setProperty lets a virtual machine's guest report something: a tools state, an address.
func setProperty(w http.ResponseWriter, r *http.Request) {
	for _, o := range simulator.Map.All("VirtualMachine") {
		vm := o.(*simulator.VirtualMachine)
		if vm.Name != r.FormValue("vm") {
			continue
		}
		value := r.FormValue("value")
		simulator.Map.WithLock(vm, func() {
			switch property := r.FormValue("property"); property {
			case "guest.toolsRunningStatus":
				simulator.Map.Update(vm, []types.PropertyChange{{Name: property, Val: value}})
			case "guest.net":
				vm.Guest.Net = []types.GuestNicInfo{{IpAddress: strings.Split(value, ","), MacAddress: "00:50:56:00:00:01", Connected: true}}
				simulator.Map.Update(vm, []types.PropertyChange{{Name: property, Val: vm.Guest.Net}})
			default:
				http.Error(w, "no such property", http.StatusBadRequest)
			}
		})
		return
	}
	http.Error(w, "no such vm", http.StatusNotFound)
}

// setMaintenance lets a host go into maintenance mode although machines run on it: on a real one they would be moved or stopped first.
func setMaintenance(w http.ResponseWriter, r *http.Request) {
	for _, o := range simulator.Map.All("HostSystem") {
		host := o.(*simulator.HostSystem)
		if host.Name != r.FormValue("host") {
			continue
		}
		simulator.Map.WithLock(host, func() {
			host.Runtime.InMaintenanceMode = r.FormValue("value") == "true"
		})
		return
	}
	http.Error(w, "no such host", http.StatusNotFound)
}
