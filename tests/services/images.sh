#!/bin/bash
# Sample disk images, one of every kind an image service may meet, made on the spot (no downloads).
#   images.sh install                  the Debian packages it takes
#   images.sh cached                   makes all of them once into .state/images of the checkout, and prints the directory
#   images.sh make | check             the same into DIR=..., and whether they are what they claim
#   images.sh boot [FILE]              starts FILE (default DIR's boot.qcow2) and waits for "ikon-boot-ok" on its serial console
# What is made:
#   small/     a 4 MiB disk in every format, most under 300 kB
#   hostile/   the same, abused: backing files, data files, extents outside, size bombs, two formats in one
#   boot/      a real bootable Linux (Debian's installer kernel + busybox + syslinux), 24 MiB disk: boot.raw, .qcow2, .vmdk, .iso,
#              and kernel (aki), initrd (ari), ext4 root (ami) of the same system
# boot runs headless and uses emulation (TCG), 10 s: a machine may offer a /dev/kvm that cannot run a guest. KVM=1 tries it.
# Nothing is mounted and no privilege is needed, but for install.
. "$(dirname "$0")/lib.sh"
PATH=$PATH:/usr/sbin:/sbin # mke2fs, sfdisk and mkfs.fat, for whoever is not root

do_install() {
    apt_need qemu-utils qemu-system-x86 debian-installer-12-netboot-amd64 busybox-static syslinux syslinux-common isolinux \
        mtools dosfstools fdisk e2fsprogs xorriso cpio gzip bzip2 xz-utils zstd
}

# LUKS times its key derivation; a short time fails now and then ("Unable to get accurate CPU usage")
luks() {
    local t
    for t in 200 500 1000 2000 2000; do
        qemu-img convert -q -f raw --object secret,id=s,data=secret -o "${1}key-secret=s,${1##*,}iter-time=$t" "${@:2}" 2> /dev/null && return 0
    done
    return 1
}

small() (
    local d=$DIR/small s
    rm -rf "$d"; mkdir -p "$d"; cd "$d"
    s=$d/disk.raw
    # MBR with one partition, some text, the rest zeros
    truncate -s 4M "$s"
    printf 'label: dos\nstart=2048, size=4096, type=83, bootable\n' | sfdisk -q "$s"
    { yes "ikon sample image" || true; } 2>/dev/null | head -c 65536 | dd of="$s" bs=1M seek=1 conv=notrunc status=none
    c() { local f=$1 o=$2 out=$3; shift 3; qemu-img convert -q -f raw -O "$f" ${o:+-o "$o"} "$@" "$s" "$out"; }
    c qcow2 compat=0.10 v2.qcow2
    c qcow2 compat=1.1 v3.qcow2
    c qcow2 compat=1.1,cluster_size=4k compressed.qcow2 -c
    c qcow2 compat=1.1,compression_type=zstd,cluster_size=4k zstd.qcow2 -c
    c qcow2 compat=1.1,lazy_refcounts=on,extended_l2=on,cluster_size=128k extended.qcow2
    c qcow2 cluster_size=512 tiny-clusters.qcow2
    c qcow2 cluster_size=2M,refcount_bits=64 big-clusters.qcow2
    c qcow2 preallocation=full full.qcow2
    cp v3.qcow2 snapshot.qcow2; qemu-img snapshot -c one snapshot.qcow2
    cp v3.qcow2 bitmap.qcow2; qemu-img bitmap --add bitmap.qcow2 changes
    qemu-img create -q -f qcow2 -b v3.qcow2 -F qcow2 backing.qcow2
    c qcow2 compat=1.1,data_file=data.bin,data_file_raw=on datafile.qcow2
    luks encrypt.format=luks,encrypt. -O qcow2 "$s" encrypted.qcow2
    c qed '' disk.qed
    c vmdk subformat=monolithicSparse sparse.vmdk
    c vmdk subformat=streamOptimized stream.vmdk
    # as exporters write it that cannot seek back: the grain directory is known from the footer
    python3 - stream.vmdk exported.vmdk <<'EOF'
import struct, sys
data = bytearray(open(sys.argv[1], "rb").read())
header = bytes(data[:512])
data[56:64] = b"\xff" * 8
data += bytes(-len(data) % 512) + struct.pack("<QII", 1, 0, 3).ljust(512, b"\0") + header + bytes(512)
open(sys.argv[2], "wb").write(data)
EOF
    c vmdk subformat=monolithicFlat flat.vmdk
    c vmdk subformat=twoGbMaxExtentSparse split.vmdk
    c vpc subformat=dynamic dynamic.vhd
    c vpc subformat=fixed fixed.vhd
    c vpc subformat=fixed,force_size=on azure.vhd
    c vhdx subformat=dynamic dynamic.vhdx
    c vhdx subformat=fixed fixed.vhdx
    c vdi '' disk.vdi
    c vdi static=on static.vdi
    c parallels '' disk.hds                      # disk_format ploop
    luks "" -O luks "$s" disk.luks
    truncate -s 4M gpt.raw
    printf 'label: gpt\nstart=2048, size=4096, type=L, name=root\n' | sfdisk -q gpt.raw
    mkdir -p tree && echo ikon > tree/README
    xorriso -as mkisofs -quiet -V IKON -o disk.iso tree 2> /dev/null
    mke2fs -q -t ext4 -d tree -O ^has_journal ami.ext4 1M > /dev/null 2>&1
    cp "$s" aki.bin; gzip -9nk "$s"; bzip2 -k "$s"; xz -k "$s"; zstd -q "$s"
    printf '<?xml version="1.0"?>\n<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"><References><File id="f1" href="stream.vmdk"/></References></Envelope>\n' > disk.ovf
    tar --format=ustar --sort=name --owner=0 --group=0 --mtime=@0 -cf disk.ova disk.ovf stream.vmdk
    tar --format=gnu -cf gnu.ova ./disk.ovf ./stream.vmdk
    tar -czf docker.tar.gz tree
    rm -rf tree
)

# Sound images with a few bytes changed. VHD's checksums are made right again.
abuse() {
    python3 - "$DIR/small" <<'EOF'
import io, pathlib, struct, sys, tarfile
small = pathlib.Path(sys.argv[1])

def change(source, target, *changes, mend=()):
    data = bytearray((small / source).read_bytes())
    for at, form, *values in changes:
        struct.pack_into(form, data, at if at >= 0 else len(data) + at, *values)
    for at, size, place in mend:
        at = at if at >= 0 else len(data) + at
        struct.pack_into(">I", data, at + place, 0)
        struct.pack_into(">I", data, at + place, ~sum(data[at : at + size]) & 0xFFFFFFFF)
    pathlib.Path(target).write_bytes(data)

def text(source, target, old, new):
    data = (small / source).read_bytes()
    at, end = data.index(old), data.index(b"\0", 600)
    descriptor = (data[512:at] + new + data[at + len(old) : end]).ljust(20 * 512, b"\0")
    pathlib.Path(target).write_bytes(data[:512] + descriptor + data[512 + 20 * 512 :])

def archive(target, *members):
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if isinstance(data, str):
                info.type, info.linkname, data = tarfile.SYMTYPE, data, b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

change("v3.qcow2", "size-4E.qcow2", (24, ">Q", 1 << 62))
change("v2.qcow2", "datafile-by-extension.qcow2", (72, ">II13s", 0x44415441, 13, b"/etc/hostname"))
change("v3.qcow2", "corrupt.qcow2", (72, ">Q", 2))
change("v3.qcow2", "qcow1.qcow2", (4, ">I", 1))
change("dynamic.vhd", "differencing.vhd", (60, ">I", 4), (-452, ">I", 4), mend=((0, 512, 64), (-512, 512, 64)))
change("dynamic.vhd", "parent.vhd", (512 + 576, ">4s", b"W2ku"), mend=((512, 1024, 36),))
change("dynamic.vhd", "two-footers.vhd", (-452, ">I", 4), mend=((-512, 512, 64),))
change("disk.vdi", "differencing.vdi", (76, "<I", 4))
change("disk.vdi", "parent.vdi", (440, "<I", 1))
table = (small / "dynamic.vhdx").read_bytes().index(b"metadata", 1 << 20)
change("dynamic.vhdx", "parent.vhdx", (table + 65536 + 4, "<I", 2))
change("exported.vmdk", "two-headers.vmdk", (-1024 + 28, "<Q", 40))
line = b'createType="monolithicSparse"'
text("sparse.vmdk", "two-types.vmdk", line, line + b'\ncreateType="monolithicFlat"')
text("sparse.vmdk", "hidden-type.vmdk", line, b'#createType="monolithicFlat"\n' + line)
text("sparse.vmdk", "parent.vmdk", line, line + b'\nparentFileNameHint="/etc/hostname"')
text("stream.vmdk", "extent-elsewhere.vmdk", b'RW 8192 SPARSE "stream.vmdk"', b'RW 8192 FLAT "/etc/hostname" 0')
# a sound descriptor somewhere else, and another at the place where some readers look for the parent
data = bytearray((small / "sparse.vmdk").read_bytes())
sound, at = bytes(data[512 : 21 * 512]), -(-len(data) // 512)
lie = sound.rstrip(b"\0").replace(b"parentCID=ffffffff", b'parentCID=12345678\nparentFileNameHint="/etc/hostname"')
data[512 : 21 * 512] = lie.ljust(20 * 512, b"\0")
struct.pack_into("<Q", data, 28, at)
pathlib.Path("two-descriptors.vmdk").write_bytes(data.ljust(at * 512, b"\0") + sound)
change("gpt.raw", "gpt-and-more.raw", (462, "<B3xB3xII", 0, 0x83, 2048, 4096))
change("disk.luks", "luks-and-iso.iso", (0x8001, "5s", b"CD001"))
change("azure.vhd", "qcow2-and-vhd.vhd", (0, ">4sI", b"QFI\xfb", 3))
ovf, disk = (small / "disk.ovf").read_bytes(), (small / "stream.vmdk").read_bytes()
archive("backing.ova", ("disk.ovf", ovf), ("stream.vmdk", pathlib.Path("backing-local.qcow2").read_bytes()))
archive("descriptor.ova", ("disk.ovf", ovf), ("stream.vmdk", (small / "flat.vmdk").read_bytes()))
archive("link.ova", ("disk.ovf", ovf), ("stream.vmdk", "/etc/hostname"))
archive("outside.ova", ("disk.ovf", ovf), ("stream.vmdk", disk), ("../../etc/cron.d/x", b"x"))
archive("elsewhere.ova", ("disk.ovf", ovf.replace(b"stream.vmdk", b"file:///etc/hostname")), ("stream.vmdk", disk))
archive("dtd.ova", ("disk.ovf", ovf.replace(b"<Env", b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname">]><Env')), ("stream.vmdk", disk))
EOF
}

hostile() (
    local d=$DIR/hostile s=$DIR/small
    rm -rf "$d"; mkdir -p "$d"; cd "$d"
    qemu-img create -q -u -f qcow2 -b /etc/hostname -F raw backing-local.qcow2 1M
    qemu-img create -q -u -f qcow2 -b 'json:{"driver":"file","filename":"/etc/hostname"}' -F raw backing-json.qcow2 1M
    qemu-img create -q -u -f qcow2 -b nbd://127.0.0.1:1/x -F raw backing-nbd.qcow2 1M
    qemu-img create -q -f qcow2 -o data_file="$PWD/data",data_file_raw=on datafile-local.qcow2 1M; rm data
    sed 's#"flat-flat.vmdk"#"/etc/hostname"#' "$s/flat.vmdk" > extent-local.vmdk
    sed 's#createType="monolithicFlat"#createType="fullDevice"#' "$s/flat.vmdk" > createtype-device.vmdk
    qemu-img create -q -f qcow2 -o cluster_size=2M virtual-128T.qcow2 128T
    truncate -s 1T sparse-1T.raw
    abuse
    cp "$s/v3.qcow2" l1-huge.qcow2; printf '\x7f\xff\xff\xff' | dd of=l1-huge.qcow2 bs=1 seek=36 conv=notrunc status=none
    cp "$s/v3.qcow2" incompat-bits.qcow2; printf '\xff\xff\xff\xff\xff\xff\xff\xff' | dd of=incompat-bits.qcow2 bs=1 seek=72 conv=notrunc status=none
    head -c 50 "$s/v3.qcow2" > header-cut.qcow2
    head -c 700 "$s/stream.vmdk" > header-cut.vmdk
    # two formats at once: an ISO whose system area holds a qcow2 header; an MBR disk that is also an ISO
    cp "$s/disk.iso" iso-and-qcow2.iso; head -c 512 "$s/v3.qcow2" | dd of=iso-and-qcow2.iso conv=notrunc status=none
    cp "$s/disk.iso" iso-and-mbr.iso; head -c 512 "$s/disk.raw" | dd of=iso-and-mbr.iso conv=notrunc status=none
    cp "$s/v3.qcow2" qcow2-named.raw
    : > empty
    head -c 8 "$s/v3.qcow2" > eight-bytes
    head -c 10000000 /dev/zero | gzip -9n > bomb.gz
)

boot_files() {
    local d=$DIR/boot k
    k=/usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64/linux
    rm -rf "$d"; mkdir -p "$d/root/bin" "$d/root/proc" "$d/root/sys" "$d/root/dev" "$d/root/sbin" "$d/iso/isolinux"
    cp "$k" "$d/kernel"
    cp /bin/busybox "$d/root/bin/busybox"
    cat > "$d/root/init" <<'EOF'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
exec > /dev/ttyS0 2>&1
echo "ikon-boot-ok $(/bin/busybox uname -r) up $(/bin/busybox cut -d' ' -f1 /proc/uptime)"
/bin/busybox grep -q ikon.stay /proc/cmdline && exec /bin/busybox sh
/bin/busybox poweroff -f
EOF
    sed -i 's#^\#!/bin/busybox#\#!/bin/busybox#' "$d/root/init"
    chmod 755 "$d/root/init"
    cp "$d/root/init" "$d/root/sbin/init"
    (cd "$d/root" && find . | LC_ALL=C sort | cpio -o -H newc --quiet --owner 0:0 --reproducible) | gzip -9n > "$d/initrd"
    mke2fs -q -t ext4 -O ^has_journal -d "$d/root" "$d/ami.ext4" 6M > /dev/null 2>&1
    printf 'SERIAL 0 115200\nPROMPT 0\nTIMEOUT 1\nDEFAULT ikon\nLABEL ikon\n KERNEL kernel\n INITRD initrd\n APPEND console=ttyS0 quiet panic=-1\n' > "$d/syslinux.cfg"
    # disk: MBR, one FAT16 partition at 1 MiB, syslinux in it; nothing is mounted
    local img=$d/boot.raw off=1048576
    truncate -s 24M "$img"
    printf 'label: dos\nlabel-id: 0x696b6f6e\nstart=2048, type=e, bootable\n' | sfdisk -q "$img"
    dd if=/usr/lib/syslinux/mbr/mbr.bin of="$img" bs=440 count=1 conv=notrunc status=none
    mkfs.fat -F 16 -n IKON -h 2048 --offset 2048 "$img" $((24 * 1024 - 1024)) > /dev/null
    MTOOLS_SKIP_CHECK=1 mcopy -i "$img@@$off" "$d/kernel" "$d/initrd" "$d/syslinux.cfg" ::/
    syslinux --install --offset $off "$img"
    qemu-img convert -q -f raw -O qcow2 -c "$img" "$d/boot.qcow2"
    qemu-img convert -q -f raw -O vmdk -o subformat=streamOptimized "$img" "$d/boot.vmdk"
    cp "$d/kernel" "$d/initrd" "$d/iso/"
    cp "$d/syslinux.cfg" "$d/iso/isolinux/isolinux.cfg"
    sed -i 's# kernel$# /kernel#; s# initrd$# /initrd#' "$d/iso/isolinux/isolinux.cfg"
    cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$d/iso/isolinux/"
    xorriso -as mkisofs -quiet -V IKONBOOT -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table \
        -isohybrid-mbr /usr/lib/ISOLINUX/isohdpfx.bin -o "$d/boot.iso" "$d/iso" 2> /dev/null
    rm -rf "$d/root" "$d/iso" "$d/syslinux.cfg"
}

boot() {
    local f=${1:-$DIR/boot/boot.qcow2} fmt=raw acc=tcg order=c out drive
    out=$(mktemp)
    case $f in *.qcow2) fmt=qcow2 ;; *.vmdk) fmt=vmdk ;; *.vhd) fmt=vpc ;; *.vhdx) fmt=vhdx ;; *.vdi) fmt=vdi ;; esac
    [ "${KVM:-0}" = 1 ] && acc=kvm
    drive=(-drive "file=$f,format=$fmt,if=ide,snapshot=on")
    case $f in *.iso) drive=(-cdrom "$f") order=d ;; esac
    timeout "${BOOT_SECONDS:-120}" qemu-system-x86_64 -M pc -accel $acc -m 256 -nographic -nodefaults -no-reboot -net none \
        -serial "file:$out" -monitor none "${drive[@]}" -boot order=$order || true
    local rc=0
    grep -a ikon-boot-ok "$out" | tr -d '\r' | sed "s/^/$acc: /" || rc=$?
    rm -f "$out"
    return $rc
}

# Kept between runs under the hash of this file; a run that was cut leaves nothing that looks whole.
cached() {
    local all=$HERE/../../.state/images want
    mkdir -p "$all"
    all=$(cd "$all" && pwd)
    want=$all/$(sha256sum < "$HERE/images.sh" | cut -c1-16)
    exec 9> "$all/lock"
    flock 9
    if [ ! -d "$want" ]; then
        find "$all" -mindepth 1 -maxdepth 1 -type d -exec rm -rf {} +
        DIR=$(mktemp -d "$all/new.XXXXXX")
        make_all >&2
        chmod 755 "$DIR"
        mv "$DIR" "$want"
    fi
    echo "$want"
}

make_all() { small; hostile; boot_files; }

do_check() {
    local f n=0
    cd "$DIR/small"
    for f in *.qcow2 *.qed *.vmdk *.vhd *.vhdx *.vdi *.hds *.luks; do
        case $f in *-s0*.vmdk | *-flat.vmdk) continue ;; esac
        case $f in *.vhd) set -- vpc ;; *.hds) set -- parallels ;; *.qcow2) set -- qcow2 ;; *) set -- "${f##*.}" ;; esac
        if [ "$f" = fixed.vhd ] || [ "$f" = azure.vhd ]; then :; # a fixed VHD has only a footer: probing calls it raw
        else [ "$(qemu-img info --output=json "$f" | sed -n 's/^    "format": "\(.*\)",*/\1/p' | tail -1)" = "$1" ] || die "$f is not $1"; fi
        n=$((n + 1))
    done
    say "$n images have the format they claim; $(du -sh . | cut -f1) in small/"
    boot | grep -q ikon-boot-ok
}
case ${1:-} in
    install) do_install ;;
    cached) cached ;;
    make) need_dir; make_all ;;
    check) need_dir; do_check && say "check ok" ;;
    boot) [ -n "${2:-}" ] || need_dir; boot "${2:-}" ;;
    start | stop) : ;;
    *) die "usage: DIR=... $(basename "$0") install|cached|make|check|boot [FILE]" ;;
esac
