# Copyright 2026 The SACL for Hugging Face authors. Licensed under the Apache License, Version 2.0.
"""Processes of their own, forked off one that has imported everything (it takes seconds) and computed nothing."""

import multiprocessing
import socket

import torch


# Not off the one that tests: after a backward, autograd refuses to work in a forked process. There is one such process
# for all who fork, so all of them say here what it imports.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    ["datasets", "torch", "transformers.trainer", "peft", "modeling_sacl", "trainer.sacl_trainer"]
)


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def in_processes(function, *arguments, count=1):
    """Calls `function(rank, *arguments)` in as many processes, and returns what they return."""
    receivers, processes = [], []
    for rank in range(count):
        receiver, sender = FORKSERVER.Pipe(duplex=False)
        process = FORKSERVER.Process(target=_send, args=(sender, function, rank, *arguments))
        process.start()
        sender.close()
        receivers.append(receiver)
        processes.append(process)
    try:
        return [receiver.recv() for receiver in receivers]
    finally:
        for process in processes:
            process.join(timeout=10)
            process.kill()


def _send(sender, function, *arguments):
    torch.set_num_threads(1)
    sender.send(function(*arguments))
