"""What is known of Flower: its version, and each private name that we replace, call or rest on.

No other file of code knows the version. Public names (`flwr.app`, `flwr.clientapp`, `flwr.serverapp`) are not listed.
After a move to another Flower a test says in one sentence what changed. Read each name's new source against the code
that uses it, then write what `fingerprint` returns.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import linecache
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any, Final

FLOWER: Final = "1.42.0"
_LONGEST_VALUE: Final = 100

#: "module:name" (a module itself: no name) with its fingerprint.
KNOWN: Final = {
    # Replaced at run time by `flower_pace`, and what those replacements rest on.
    "flwr.supercore.inflatable.inflatable_utils:pull_objects": "31bb2de46b450e6a",
    "flwr.supercore.inflatable.inflatable_utils:pull_and_inflate_object_from_tree": "139811483a15e4a6",
    "flwr.supernode.start_client_internal:start_client_internal": "9e89a6eb68fbec68",
    "flwr.supernode.start_client_internal:_pull_and_store_message": "eaf5d0e36dc34e4c",
    "flwr.supernode.start_client_internal:_push_messages": "00bb86faffdec114",
    "flwr.supernode.nodestate.in_memory_nodestate:InMemoryNodeState": "ed77fee39416de33",
    "flwr.supercore.servicer.runtime.runtime_handlers:acquire_task": "e3701406b5547001",
    # When a message is stored, and that asking takes it (`consortia.deploy.held_questions`).
    "flwr.server.superlink.linkstate.in_memory_linkstate:InMemoryLinkState": "78ad01f312d1b163",
    "flwr.superlink.servicer.fleet.fleet_handlers:pull_messages": "5f1d8861a9eb1465",
    # The commands that are started, and their options.
    "flwr.superlink.cli:flower_superlink": "398ce9c85755e9ee",
    "flwr.superlink.cli:flwr_serverapp": "b274501e3b1ebaf9",
    "flwr.superlink.cli.flower_superlink:_parse_args_run_superlink": "d4ebda64d6ac8a80",
    "flwr.superlink.cli.flower_superlink:_add_args_common": "41ed44bacd848b55",
    "flwr.superlink.cli.flower_superlink:_add_args_http_api": "6485d7b088ecca1e",
    "flwr.superlink.cli.flower_superlink:_add_args_runtime_api": "998d3ece6bdd638a",
    "flwr.superlink.cli.flower_superlink:_add_args_fleet_api": "4d11cfe5f3047a96",
    "flwr.supernode.cli:flower_supernode": "e263e10452076b00",
    "flwr.supernode.cli.flower_supernode:_parse_args_run_supernode": "f57c3a4843d6b0a9",
    "flwr.supernode.cli.flower_supernode:_parse_args_common": "6e4deacfb6bf3aee",
    "flwr.supercore.cli:flower_superexec": "f0e2725c92a57597",
    "flwr.supercore.cli.flower_superexec:_parse_args": "d495eab1550405d6",
    # Paths, and who may call them: Fleet and Control take any version of Flower, Runtime only its own minor version.
    "flwr.superlink.routers.fleet.router:": "98ce9e07f1cb4814",
    "flwr.superlink.routers.control.router:": "838a29220cd53847",
    "flwr.supercore.routers.runtime.router:": "59bd7cd3edcc465c",
    "flwr.supercore.dependencies.version:VersionDependency": "e028ba91776f3f9a",
    "flwr.supercore.runtime_version_compatibility:RuntimeVersionMetadata": "34b1c5192929dbab",
    # What a launcher and a ServerApp call, and how often Flower itself tries again.
    "flwr.supernode.runtime.run_clientapp:pull_task_input": "5607a23e1673ee87",
    "flwr.supernode.runtime.run_clientapp:push_message": "07cb512c93e065a9",
    "flwr.supernode.runtime.run_clientapp:push_task_output": "9206407456e79e17",
    "flwr.supercore.runtime:RuntimeHttpClient": "9d66e89a62052127",
    "flwr.supercore.control:ControlHttpClient": "ee524b3741ae8cf8",
    "flwr.supernode.fleet_http_client:FleetHttpClient": "9f33ca6d39a8f428",
    "flwr.supercore.protobuf.client:ProtobufClient": "e2206492f910555f",
    "flwr.supercore.protobuf.client:ProtobufClientInterceptor": "7213e865bb9974ea",
    "flwr.supercore.protobuf.client:ProtobufRequestContext": "ac89e51d64bb230c",
    "flwr.supercore.protobuf.client:ProtobufCall": (
        "collections.abc.Callable[[flwr.supercore.protobuf.client.ProtobufRequestContext], httpx.Response]"
    ),
    "flwr.supercore.inflatable.inflatable_utils:ObjectPushError": "8682a8237d3a7008",
    "flwr.supercore.retry.retry_invoker:RetryInvoker": "c07ea29e28e98adf",
    "flwr.supercore.retry.http_retry:make_simple_http_retry_invoker": "49e12326a4b17e26",
    "flwr.supercore.superexec.run_superexec:run_superexec": "91e7a33c5b898f33",
    "flwr.superlink.grid.http_grid:HttpGrid": "72e288cdc292c3fd",
    "flwr.supercore.interceptors:RuntimeVersionHttpInterceptor": "32dc4f3d763a9ca0",
    "flwr.supercore.interceptors:SuperExecAuthHttpInterceptor": "c11135b67c204986",
    "flwr.supernode.node_auth_http_interceptor:NodeAuthHttpInterceptor": "a032beb3c41bf1bb",
    "flwr.supercore.primitives.asymmetric:public_key_to_bytes": "552b787ae3438eaf",
    "flwr.supercore.error:FlowerError": "5791034e46095dd6",
    "flwr.supercore.fab:Fab": "140aff940cdb015e",
    "flwr.supercore.run:Run": "2f1566491e6beccf",
    "flwr.supercore.task_identity:TaskIdentity": "49ac1df12b140345",
    "flwr.common.serde:fab_to_proto": "c5b60150389ce73f",
    "flwr.common.serde:message_from_proto": "adfc00f7b403461f",
    "flwr.common.serde:message_to_proto": "257d477d31454ca3",
    # The check of a node's signature before its body is read (`consortia.deploy.superlink`).
    "flwr.superlink:main": "500f01979e167243",
    "flwr.common.constant:TIMESTAMP_HEADER": "flwr-timestamp",
    "flwr.supercore.constant:FLEET_HTTP_PUBLIC_KEY_HEADER": "flwr-public-key",
    "flwr.supercore.constant:FLEET_HTTP_SIGNATURE_HEADER": "flwr-signature",
    "flwr.supercore.error.catalog:API_ERROR_MAP": "1b049dbd6da95466",
    "flwr.supercore.error:ApiErrorCode": "d5e9ed6a18a359fc",
    "flwr.supercore.primitives.asymmetric:bytes_to_public_key": "de83bfa0fba75607",
    "flwr.supercore.primitives.asymmetric:verify_signature": "d13a709b0710fc57",
    # Flower's simulation runtime (`--engine ray`).
    "flwr.common.constant:PARTITION_ID_KEY": "partition-id",
    "flwr.server.superlink.fleet.vce.backend.raybackend:RayBackend": "2ad67054433feddf",
    "flwr.simulation.ray_transport.ray_actor:BasicActorPool": "68dd4f31bc6e4655",
    # Codes, names and times.
    "flwr.common.constant:ErrorCode": "4889fc3e5b669ac5",
    "flwr.common.constant:SubStatus": "3250f760cd3385b2",
    "flwr.supercore.constant:NodeStatus": "579b918c601fe983",
    "flwr.supercore.constant:TaskType": "83fa24c88e9291ed",
    "flwr.supercore.constant:TASK_TOKEN_HEADER": "flwr-task-token",
    "flwr.common.constant:HEARTBEAT_DEFAULT_INTERVAL": "30",
    "flwr.common.constant:HEARTBEAT_PATIENCE": "2",
    "flwr.common.constant:SYSTEM_TIME_TOLERANCE": "5",
    "flwr.common.constant:TIMESTAMP_TOLERANCE": "300",
    "flwr.supercore.constant:OBJECT_PUSH_SESSION_TTL_SECONDS": "180",
    # Calls that we make ourselves.
    "flwr.proto.control_pb2:ListNodesRequest": "",
    "flwr.proto.control_pb2:ListRunsRequest": "run_id limit skip",
    "flwr.proto.control_pb2:RegisterNodeRequest": "public_key location name",
    "flwr.proto.control_pb2:StartRunRequest": (
        "fab override_config override_federation_config app_spec federation series_id connector_refs user_prompt "
        "connector_ids"
    ),
    "flwr.proto.control_pb2:StartRunResponse": "run_id note series_id federation",
    "flwr.proto.control_pb2:UnregisterNodeRequest": "node_id",
    "flwr.proto.node_pb2:NodeInfo": (
        "node_id owner_aid owner_name status registered_at last_activated_at last_deactivated_at unregistered_at "
        "online_until heartbeat_interval public_key location name"
    ),
    "flwr.proto.runtime_pb2:AcquireTaskRequest": "supported_task_types agentapp_fab_hashes",
    "flwr.proto.runtime_pb2:AcquireTaskResponse": "task token",
    "flwr.proto.runtime_pb2:SendTaskHeartbeatRequest": "",
    # What a SuperNode can send, with all that it is made of.
    "flwr.proto.fleet_pb2:ActivateNodeRequest": "public_key heartbeat_interval",
    "flwr.proto.recorddict_pb2:Array": "dtype shape stype data",
    "flwr.proto.recorddict_pb2:ArrayRecord": "items",
    "flwr.proto.recorddict_pb2:ArrayRecord.Item": "key value",
    "flwr.proto.recorddict_pb2:BoolList": "vals",
    "flwr.proto.recorddict_pb2:BytesList": "vals",
    "flwr.proto.recorddict_pb2:ConfigRecord": "items",
    "flwr.proto.recorddict_pb2:ConfigRecord.Item": "key value",
    "flwr.proto.recorddict_pb2:ConfigRecordValue": (
        "double sint64 uint64 bool string bytes double_list sint_list uint_list bool_list string_list bytes_list"
    ),
    "flwr.proto.message_pb2:ConfirmMessageReceivedRequest": "node run_id message_object_id",
    "flwr.proto.fleet_pb2:DeactivateNodeRequest": "node_id",
    "flwr.proto.recorddict_pb2:DoubleList": "vals",
    "flwr.proto.error_pb2:Error": "code reason",
    "flwr.proto.fab_pb2:GetFabRequest": "node hash_str run_id",
    "flwr.proto.run_pb2:GetRunRequest": "node run_id",
    "flwr.proto.message_pb2:Message": "metadata content error",
    "flwr.proto.message_pb2:Metadata": (
        "run_id message_id src_node_id dst_node_id reply_to_message_id group_id ttl message_type created_at "
        "src_task_id dst_task_id"
    ),
    "flwr.proto.recorddict_pb2:MetricRecord": "items",
    "flwr.proto.recorddict_pb2:MetricRecord.Item": "key value",
    "flwr.proto.recorddict_pb2:MetricRecordValue": "double sint64 uint64 double_list sint_list uint_list",
    "flwr.proto.node_pb2:Node": "node_id",
    "flwr.proto.message_pb2:ObjectTree": "object_id children",
    "flwr.proto.fleet_pb2:PullMessagesRequest": "node message_ids",
    "flwr.proto.message_pb2:PullObjectRequest": "node run_id object_id",
    "flwr.proto.fleet_pb2:PushMessagesRequest": "node messages_list message_object_trees clientapp_runtime_list",
    "flwr.proto.message_pb2:PushObjectRequest": "node run_id object_id object_content session_id",
    "flwr.proto.recorddict_pb2:RecordDict": "items",
    "flwr.proto.recorddict_pb2:RecordDict.Item": "key array_record metric_record config_record",
    "flwr.proto.heartbeat_pb2:SendNodeHeartbeatRequest": "node heartbeat_interval",
    "flwr.proto.recorddict_pb2:SintList": "vals",
    "flwr.proto.recorddict_pb2:StringList": "vals",
    "flwr.proto.recorddict_pb2:UintList": "vals",
}


def changes(names: Iterable[str] = KNOWN) -> list[str]:
    """Return what the installed Flower has otherwise than it is known, the version first; empty if nothing."""
    found = [] if (installed := version("flwr")) == FLOWER else [f"its version is {installed}, not {FLOWER}"]
    for name in names:
        try:
            now = fingerprint(name)
        except (ImportError, AttributeError):
            found.append(f"{name} is gone")
            continue
        if now != KNOWN[name]:
            found.append(f"{name} is {now}, not {KNOWN[name]}")
    linecache.clearcache()  # the sources that were looked at
    return found


def fingerprint(name: str) -> str:
    """Return what tells one state of a name from another.

    A protobuf message: its fields' names. A function, a class or a module: the first 16 digits of its source's SHA-256.
    Anything else: its value, or those digits of a long one.

    Raises
    ------
    ImportError, AttributeError
        There is no such name.
    """
    module, _, inner = name.partition(":")
    part: Any = importlib.import_module(module)
    for word in filter(None, inner.split(".")):
        part = getattr(part, word) if hasattr(part, word) else importlib.import_module(f"{module}.{word}")
    if isinstance(part, type) and hasattr(part, "DESCRIPTOR"):
        return " ".join(field.name for field in part.DESCRIPTOR.fields)
    try:
        text = inspect.getsource(part)
    except (TypeError, OSError):
        if len(text := str(part)) <= _LONGEST_VALUE:
            return text
    return hashlib.sha256(text.encode()).hexdigest()[:16]
