"""The program, in rooms.

Imports run one way, from the top:

    eks  kubernetes  local                      one target each: makes its components, returns what the rest needs of it
    network  cluster  registry  domain          components; none imports another
    image  service  endpoint_check
    cluster_platform  load_balancer             what components are given
    build_context  stack_pin  cluster_creator  kubeconfig
    reachability  http_probe  diagnose  rollout
    config  naming  state                       plain values
    kms  outputs  server_contract  git_lfs
    model_environment  model_lock               what a model needs besides the server
    package_index

`endpoint` is the name under which states of older versions know a part of `endpoint_check`.
"""
