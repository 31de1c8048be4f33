Feature: Models
  A model that is named and not here is got once, kept, looked after, and never taken for what it is not.

  Scenario: The first request gets the model
    Given a hub with the model "org/tiny"
    And a pool "chat" of the reference "org/tiny:Q4_K_M"
    When "chat" is asked
    Then the answer is 200
    And the hub sent the model once
    When "chat" is asked
    Then the answer is 200
    And the hub sent the model once

  Scenario: A model is pulled before it is asked for
    Given a hub with the model "org/tiny"
    And a pool "chat" of the reference "org/tiny:Q4_K_M"
    When corral "pull org/tiny:Q4_K_M" is run
    Then it succeeds and says "is here"
    When the hub is gone
    And "chat" is asked
    Then the answer is 200

  Scenario: What the policy forbids is not asked for
    Given a hub with the model "org/tiny"
    And a pool "chat" of the reference "org/tiny:Q4_K_M"
    And the network is offline
    When "chat" is asked
    Then the answer is 503 POOL_UNAVAILABLE
    And the answer says "network.offline"
    And nobody asked the hub

  Scenario: A model that is not what was promised is not served
    Given a hub with the model "org/tiny" that sends other bytes than it promised
    And a pool "chat" of the reference "org/tiny:Q4_K_M"
    When "chat" is asked
    Then the answer is 503 POOL_UNAVAILABLE
    And the answer says "SHA-256"
    And no engine of "chat" runs

  Scenario: A model is retired and taken back
    Given a hub with the model "org/tiny"
    And a pool "chat" of the reference "org/tiny:Q4_K_M"
    When "chat" is asked
    Then the answer is 200
    When corral "models retire hf:org/tiny:Q4_K_M" is run
    And "chat" is asked
    Then the answer is 410 MODEL_RETIRED
    When corral "models activate hf:org/tiny:Q4_K_M" is run
    And the pool "chat" is ready
    And "chat" is asked
    Then the answer is 200

  Scenario: A pool is given another model by its name
    Given a hub with the model "org/tiny"
    And a pool "chat" of a file
    When the pool "chat" is ready
    And corral "reload chat --model org/tiny:Q4_K_M" is run
    Then it succeeds and says "has its new engine"
    And the hub sent the model once
    When "chat" is asked
    Then the answer is 200
